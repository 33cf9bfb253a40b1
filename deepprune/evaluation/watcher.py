"""What an evaluation tells those who watch it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepprune.core.protocols import Observation, Step
from deepprune.core.types import Decision, QuestionRef
from deepprune.evaluation.grid import Point
from deepprune.evaluation.outcomes import Outcomes, QuestionOutcomes, Row


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a sweep is going to do.

    Attributes:
        points: The grid.
        questions: The questions, those on record already included.
        n_recorded: How many questions an earlier, interrupted run has recorded.
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


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep has found: its rows, in the order of the grid, and where they are."""

    plan: SweepPlan
    rows: Sequence[Row]
    results_path: Path


class EvaluatorCallback:
    """Watches an evaluation; override what you need.

    Order: ``on_sweep_start``; for every question ``on_question_start``, its ``on_checkpoint`` and
    ``on_decision``, ``on_question_end``; when all questions are done ``on_point_end`` for every
    row; ``on_sweep_end``. Questions come in their order whoever does them, each when it is done.

    A callback that overrides ``on_checkpoint`` or ``on_decision`` makes the sweep go run by run,
    which is slower than many runs at once.
    """

    look_every: int | None = None
    """Ask ``give_up`` after so many questions; ``None``: never."""

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """The grid is known, nothing has run."""

    def on_question_start(self, question: QuestionRef) -> None:
        """What happened on this question comes next."""

    def on_checkpoint(self, point: Point, step: Step, seen: Observation) -> None:
        """All running traces have reached ``step.until``."""

    def on_decision(self, point: Point, decision: Decision) -> None:
        """A trace is about to be stopped."""

    def on_question_end(self, question: QuestionRef, outcomes: QuestionOutcomes) -> None:
        """All points of this question are done and on disk."""

    def give_up(self, seen: Outcomes) -> dict[int, str]:
        """Points that need no further questions: number and reason."""
        return {}

    def on_point_end(self, row: Row) -> None:
        """A row of the results stands."""

    def on_sweep_end(self, result: SweepResult) -> None:
        """All rows are on disk."""
