"""Watcher: a progress bar with an estimate of the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deepprune.core.types import QuestionRef
from deepprune.evaluation.outcomes import QuestionOutcomes, Row
from deepprune.evaluation.watcher import SweepPlan, Watcher


class SweepProgress(Watcher):
    """Counts questions, and the runs of points that they stand for."""

    def __init__(self) -> None:
        """Build the bar; it shows once the sweep starts."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("questions, {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """Show the bar, advanced by the recorded questions."""
        self._runs_a_question = len(plan.points) * plan.resamples
        self._done, self._started = 0, time.monotonic()
        self._bar.start()
        self._task = self._bar.add_task(
            f"{', '.join(plan.judges)}: {len(plan.points)} points x {plan.resamples} orders",
            total=len(plan.questions),
            completed=plan.n_recorded,
            rate="",
        )

    def on_question_end(self, question: QuestionRef, outcomes: QuestionOutcomes) -> None:
        """Advance the bar."""
        self._done += self._runs_a_question
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:,.0f} runs/s,")

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        """Remove the bar."""
        self._bar.stop()
