"""Watcher: draw the figures of a sweep when it ends."""

from __future__ import annotations

from collections.abc import Sequence

from deepprune.core.errors import InputError
from deepprune.evaluation.outcomes import Row
from deepprune.evaluation.watcher import SweepPlan, Watcher
from deepprune.report.figures import (
    NEEDS_MATPLOTLIB,
    accuracy_figure,
    has_matplotlib,
    trade_off_figure,
)
from deepprune.report.labels import COSTS

FIGURE = "accuracy_tokens.png"
TRADE_OFF = "tokens_latency.png"


class SweepFigure(Watcher):
    """Draws accuracy against a cost, and latency against tokens at a fixed loss of accuracy.

    The files beside the results are ``accuracy_tokens.png``, or ``accuracy_COST.png`` of another
    cost, and ``tokens_latency.png``.

    Args:
        cost: A name in `labels.COSTS`: ``net_tokens``, ``tokens``, ``latency``, ``engine_seconds``.

    Raises:
        InputError: If matplotlib is missing.
    """

    def __init__(self, cost: str = "net_tokens") -> None:
        if cost not in COSTS:
            raise InputError(
                f"callbacks.sweep.figure.cost must be one of {', '.join(COSTS)}, got {cost!r}."
            )
        self.cost = cost
        if not has_matplotlib():
            raise InputError(
                f"{NEEDS_MATPLOTLIB}, or leave the figure out with ~callbacks.sweep.figure."
            )

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        n = len({q.question for q in plan.questions})
        title = f"{n} questions, N = {plan.n_traces} traces, judge: {', '.join(plan.judges)}"
        name = FIGURE if "tokens" in self.cost else f"accuracy_{self.cost}.png"
        accuracy_figure(rows, plan.folder / name, title, self.cost)
        trade_off_figure(rows, plan.folder / TRADE_OFF, title)
