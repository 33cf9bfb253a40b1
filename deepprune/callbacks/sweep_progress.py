"""Watcher: show a progress bar with an estimate of the time that is left."""

from __future__ import annotations

from collections.abc import Sequence

from deepprune.core.progress import Bar
from deepprune.core.types import QuestionRef
from deepprune.evaluation.outcomes import QuestionOutcomes, Row
from deepprune.evaluation.watcher import SweepPlan, Watcher


class SweepProgress(Watcher):
    """Counts questions."""

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """Show the bar, advanced by the recorded questions."""
        self._bar = Bar(
            desc=f"sweep, {', '.join(plan.judges) or 'no judge'}, questions: ",
            total=len(plan.questions),
            initial=plan.n_recorded,
            delay=0,  # what takes seconds comes before the first question ends
        )

    def on_question_end(self, question: QuestionRef, outcomes: QuestionOutcomes) -> None:
        self._bar.update()

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        self._bar.close()
