"""Watcher: show a progress bar with an estimate of the time that is left."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from deepprune.core.types import QuestionRef
from deepprune.evaluation.outcomes import QuestionOutcomes, Row
from deepprune.evaluation.watcher import SweepPlan, Watcher


class SweepProgress(Watcher):
    """Counts questions."""

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """Show the bar, advanced by the recorded questions."""
        self._bar = tqdm(
            desc=f"{', '.join(plan.judges)}: {len(plan.points)} points x {plan.resamples} orders",
            total=len(plan.questions),
            initial=plan.n_recorded,
            unit="question",
            delay=2,
        )

    def on_question_end(self, question: QuestionRef, outcomes: QuestionOutcomes) -> None:
        self._bar.update()

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        self._bar.close()
