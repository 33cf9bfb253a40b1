"""Evaluator callback: a progress bar with an estimate of the time that is left."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deepprune.evaluation.callback import EvaluatorCallback, SweepPlan, SweepResult
from deepprune.types import QuestionTraces


class SweepProgress(EvaluatorCallback):
    """Counts questions; a question's first points pay for its scores, so points would mislead."""

    def __init__(self) -> None:
        """Build the bar; it shows once the sweep starts."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("questions,"),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """Show the bar, the recorded questions already done."""
        self._bar.start()
        self._task = self._bar.add_task(
            f"{plan.judge}: {len(plan.points)} points",
            total=len(plan.questions),
            completed=plan.n_recorded,
        )

    def on_question_end(self, question: QuestionTraces) -> None:
        """One more."""
        self._bar.advance(self._task)

    def on_sweep_end(self, result: SweepResult) -> None:
        """Take the bar away."""
        self._bar.stop()
