"""Watcher: the sweep's rows, headline and figure in a W&B run."""

from __future__ import annotations

from typing import Any

from deepprune.callbacks.sweep_figure import FIGURE
from deepprune.evaluation.watcher import SweepResult, Watcher
from deepprune.report.labels import labels
from deepprune.report.tables import shown_rows


class SweepWandb(Watcher):
    """Logs what ``results.jsonl`` holds, so that a run can be compared in W&B.

    Args:
        run: The W&B run (`report.tracking.start_run`).
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def on_sweep_end(self, result: SweepResult) -> None:
        """Log the table ``prune/results``, the figure ``prune/figure`` and a summary per point."""
        import wandb

        rows = [row.columns for row in result.rows]
        columns: list[str | int] = [*sorted({name for row in rows for name in row})]
        data = [[row.get(str(name)) for name in columns] for row in rows]
        self._run.log({"prune/results": wandb.Table(columns=columns, data=data)})
        figure = result.plan.folder / FIGURE
        if figure.exists():
            self._run.log({"prune/figure": wandb.Image(str(figure))})
        names = labels(result.rows)
        for i in shown_rows(result.rows):
            for name in ("accuracy", "token_saving", "net_saving"):
                if (estimate := result.rows[i].metrics.get(name)) is not None:
                    self._run.summary[f"prune/{names[i]}/{name}"] = estimate.value
