"""Interface of what watches an evaluation: progress, tables, figures, views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepprune.core.protocols import Observation, Step
from deepprune.core.types import Decision, QuestionRef
from deepprune.evaluation.grid import Point
from deepprune.evaluation.outcomes import Outcomes, Row


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep before it runs.

    Attributes:
        points: The grid.
        questions: All questions, recorded ones included.
        n_recorded: Questions that an interrupted run has recorded.
        n_traces: The largest N.
        resamples: Orders of the traces.
        judges: Names of the judges, that of ``judge=`` first.
        baseline: The policy that others are compared with at equal tokens, beside consensus.
        folder: Where the record is written.
    """

    points: Sequence[Point]
    questions: Sequence[QuestionRef]
    n_recorded: int
    n_traces: int
    resamples: int
    judges: Sequence[str]
    baseline: str
    folder: Path


class Watcher:
    """Receives the events of a sweep, or of questions that are pruned one by one.

    Override what you need. Order: ``on_sweep_start``; for every question ``on_question_start``, its
    checkpoints, decisions and fallback, ``on_question_end``; ``on_sweep_end``. Questions come in
    their order, wherever they are evaluated. ``deepprune prune`` calls neither ``on_sweep_start``
    nor ``on_sweep_end``.

    The first argument differs, hence ``Any``: a sweep passes the `QuestionRef` of a question and
    the `Point` of a checkpoint, ``deepprune prune`` the `live.question.LiveQuestion`.

    A watcher that overrides ``on_checkpoint`` or ``on_decision`` makes a sweep evaluate run by run,
    which is slower than many runs at once.
    """

    look_every: int | None = None
    """Call ``give_up`` after so many questions; ``None``: never."""

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """The grid is known, nothing has run."""

    def on_question_start(self, question: Any) -> None:
        """The next question begins."""

    def on_checkpoint(self, at: Any, step: Step, seen: Observation) -> None:
        """All running traces have reached ``step.until``."""

    def on_decision(self, at: Any, decision: Decision) -> None:
        """A trace is about to be stopped."""

    def on_fallback(self, at: Any, reason: str) -> None:
        """The judge has failed; all traces run to their end, unpruned. Never in a sweep."""

    def on_question_end(self, question: Any, result: Any) -> None:
        """A question is recorded: `QuestionOutcomes` of a sweep, the line of a live one."""

    def give_up(self, seen: Outcomes) -> dict[int, str]:
        """Return the points that need no further questions: number and reason."""
        return {}

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        """All rows, in the order of the grid, are on disk."""

    @property
    def watches_runs(self) -> bool:
        """Return whether it overrides ``on_checkpoint`` or ``on_decision``."""
        mine = type(self)
        return (
            mine.on_checkpoint is not Watcher.on_checkpoint
            or mine.on_decision is not Watcher.on_decision
        )
