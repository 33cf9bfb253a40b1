"""Watcher: draw the figures of a sweep when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepprune.core.errors import InputError
from deepprune.evaluation.outcomes import Row
from deepprune.evaluation.watcher import SweepPlan, Watcher
from deepprune.report.figures import accuracy_figure, can_draw, trade_off_figure
from deepprune.report.labels import COSTS, known_costs

FIGURE = "accuracy_tokens.png"
TRADE_OFF = "tokens_latency.png"


class SweepFigure(Watcher):
    """Draws accuracy against a cost, and latency against tokens at a fixed loss of accuracy.

    The files beside the results are ``accuracy_tokens.png``, or ``accuracy_COST.png`` of another
    cost, and ``tokens_latency.png``.

    Args:
        cost: A name in `labels.COSTS`: ``net_tokens``, ``tokens``, ``latency``, ``engine_seconds``.

    Raises:
        InputError: If there is no such cost.
    """

    def __init__(self, cost: str = "net_tokens") -> None:
        if cost not in COSTS:
            raise InputError(
                f"callbacks.sweep.figure.cost must be one of {', '.join(COSTS)}, got {cost!r}."
            )
        self.cost = cost

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        draw_sweep(rows, plan.folder, self.cost)


def draw_sweep(rows: Sequence[Row], folder: Path, cost: str = "net_tokens") -> None:
    """Draw the figures of a sweep into a folder; without the extra ``report``, say so."""
    if not can_draw() or all(row.status != "ok" for row in rows):
        return
    facts = rows[0].facts
    judges = dict.fromkeys(row.judge for row in rows if row.judge)
    n_traces = max(row.axes.get("n_traces") or facts.get("n_traces", 0) for row in rows)
    title = f"{facts['n_questions']} questions, N = {n_traces} traces"
    title += f", judge: {', '.join(judges)}" if judges else ""
    accuracy_figure(
        rows, folder / (FIGURE if "tokens" in cost else f"accuracy_{cost}.png"), title, cost
    )
    if "latency" in known_costs(rows):
        trade_off_figure(rows, folder / TRADE_OFF, title)
