"""Watcher: draw accuracy against tokens when the sweep ends."""

from __future__ import annotations

from collections.abc import Sequence

from deepprune.core.errors import InputError
from deepprune.evaluation.outcomes import Row
from deepprune.evaluation.watcher import SweepPlan, Watcher
from deepprune.report.figures import NEEDS_MATPLOTLIB, accuracy_figure, has_matplotlib

FIGURE = "accuracy_tokens.png"


class SweepFigure(Watcher):
    """Writes ``accuracy_tokens.png`` beside the results.

    Raises:
        InputError: If matplotlib is missing.
    """

    def __init__(self) -> None:
        if not has_matplotlib():
            raise InputError(
                f"{NEEDS_MATPLOTLIB}, or leave the figure out with ~callbacks.sweep.figure."
            )

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        n = len({q.question for q in plan.questions})
        title = f"{n} questions, N = {plan.n_traces} traces, judge: {', '.join(plan.judges)}"
        accuracy_figure(rows, plan.folder / FIGURE, title)
