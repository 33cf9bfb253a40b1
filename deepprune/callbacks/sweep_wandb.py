"""Watcher: log a sweep's rows and figure to W&B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepprune.callbacks.sweep_figure import FIGURE
from deepprune.evaluation.outcomes import Row
from deepprune.evaluation.watcher import SweepPlan, Watcher
from deepprune.report.labels import labels
from deepprune.report.tables import shown_rows


class SweepWandb(Watcher):
    """Logs the rows of ``results.jsonl``, so that runs can be compared in W&B.

    Args:
        run: The W&B run (`report.tracking.start_run`).
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        """Log the table ``prune/results``, the figure ``prune/figure`` and a summary per point."""
        import wandb

        lines = [row.columns for row in rows]
        columns: list[str | int] = [*sorted({name for line in lines for name in line})]
        data = [[line.get(str(name)) for name in columns] for line in lines]
        self._run.log({"prune/results": wandb.Table(columns=columns, data=data)})
        figure = plan.folder / FIGURE
        if figure.exists():
            self._run.log({"prune/figure": wandb.Image(str(figure))})
        names = labels(rows)
        for i in shown_rows(rows):
            for name in ("accuracy", "token_saving", "net_saving"):
                if (estimate := rows[i].metrics.get(name)) is not None:
                    self._run.summary[f"prune/{names[i]}/{name}"] = estimate.value
