"""What an evaluation tells those who watch it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepprune.evaluation.ledger import Bill
from deepprune.evaluation.results import Row
from deepprune.evaluation.sweep import Point
from deepprune.protocols import Observation, Step
from deepprune.types import Decision, QuestionTraces


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a sweep is going to do.

    Attributes:
        points: The grid.
        questions: The questions, those on record already included.
        n_recorded: How many questions an earlier, interrupted run has recorded.
        n_traces: N, traces a question.
        judge: Name of the judge.
        folder: Where the record is written.
    """

    points: Sequence[Point]
    questions: Sequence[QuestionTraces]
    n_recorded: int
    n_traces: int
    judge: str
    folder: Path


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep has found: its rows, in the order of the grid, and where they are."""

    plan: SweepPlan
    rows: Sequence[Row]
    results_path: Path


class EvaluatorCallback:
    """Watches an evaluation; override what you need.

    Order: ``on_sweep_start``; for every question ``on_question_start``, then at every point and
    order of the traces ``on_checkpoint`` and ``on_decision``, after each point
    ``on_point_progress``, then ``on_question_end``; when all questions are done ``on_point_end``
    for every row; ``on_sweep_end``.
    """

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """The grid is known, nothing has run."""

    def on_question_start(self, question: QuestionTraces) -> None:
        """All points of this question come next."""

    def on_checkpoint(self, point: Point, step: Step, seen: Observation) -> None:
        """All running traces have reached ``step.until``."""

    def on_decision(self, point: Point, decision: Decision) -> None:
        """A trace is about to be stopped."""

    def on_point_progress(self, point: Point, question: QuestionTraces, bills: list[Bill]) -> None:
        """A point is done on a question: a bill for each order, none where it failed."""

    def on_question_end(self, question: QuestionTraces) -> None:
        """All points of this question are done and on disk."""

    def on_point_end(self, row: Row) -> None:
        """A row of the results stands."""

    def on_sweep_end(self, result: SweepResult) -> None:
        """All rows are on disk."""
