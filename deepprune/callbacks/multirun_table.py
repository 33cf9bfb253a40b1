"""Hydra callback: when a multirun ends, one table and one figure of all its runs."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from deepprune.core.files import write_atomic

if TYPE_CHECKING:
    from deepprune.judge.measure.comparison import RunRecord

FIGURE = "comparison.png"


class MultirunTable(Callback):
    """Compares the runs of a multirun as their folders tell of them, whatever ran them.

    Writes ``comparison.jsonl`` and ``comparison.png``, prints the table, and ends the program with
    the highest exit code of a run; an error of its own counts as 1.

    Args:
        baseline: Values of options, e.g. ``{loss: bce}``: a row is compared with the one that has
            these and the same of all others. ``None`` for the first row.
    """

    def __init__(self, baseline: Mapping[str, Any] | None = None) -> None:
        self._baseline = baseline

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs of the multirun are done."""
        from deepprune.judge.measure.comparison import read_runs  # SciPy comes too

        folder, code = Path(config.hydra.sweep.dir), 0
        try:
            if runs := read_runs(folder):
                code = max(run.exit_code for run in runs)
                self._compare(runs, folder)
        except Exception:  # Hydra would make a warning of it
            traceback.print_exc()
            code = max(code, 1)
        if code:
            sys.exit(code)

    def _compare(self, runs: Sequence[RunRecord], folder: Path) -> None:
        """Write the table and the figure, and show where they are."""
        from deepprune.judge.measure.comparison import HEADLINE, compare
        from deepprune.report.figures import comparison_figure, drawn
        from deepprune.report.tables import comparison_table, show

        rows = compare(runs, self._baseline)
        table = folder / "comparison.jsonl"
        write_atomic(table, "".join(json.dumps(row.record()) + "\n" for row in rows))
        show(comparison_table(rows))
        if self._baseline and len(rows) > 1 and not any(row.baseline for row in rows):
            wanted = ", ".join(f"{k}={v}" for k, v in self._baseline.items())
            print(f"no differences: no finished run is the baseline, {wanted}")
        if any(HEADLINE in row.metrics for row in rows) and (
            figure := drawn(comparison_figure, rows, folder / FIGURE)
        ):
            print(f"figure: {figure}")
        print(f"results: {table}")
        print(f"run: {folder}")
