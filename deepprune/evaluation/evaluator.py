"""The loop: questions x policies x grid points, watched by callbacks, recorded as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepprune.errors import InputError
from deepprune.evaluation.callback import EvaluatorCallback, SweepPlan, SweepResult
from deepprune.evaluation.ledger import Bill, GeneratorSize, draw_bill, generator_size
from deepprune.evaluation.metrics import sweep_rows
from deepprune.evaluation.results import OutcomeLog, PointOutcome, QuestionKey, write_rows
from deepprune.evaluation.scores import QuestionScores
from deepprune.evaluation.selection import check_questions
from deepprune.evaluation.sweep import Point
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache
from deepprune.protocols import Engine, Observation, Step
from deepprune.pruning.controller import run_question
from deepprune.seeding import derive, generator
from deepprune.types import Decision, QuestionTraces


class Evaluator:
    """Runs every grid point on every question, for ``resamples`` orders of the traces.

    Questions are the outer loop: a question's scores are computed once, serve all points, and are
    forgotten; memory does not grow with the number of questions.

    Args:
        points: The grid; holds cons@N (see `evaluation.sweep.grid`).
        n_traces: N, traces a question.
        resamples: Orders of the traces (and choices of N, where more are recorded) a question.
        seed: Decides the orders and the policies' draws.
        generators: Size of every generator by model name, for the FLOPs.
        folder: Where ``outcomes.jsonl`` and ``results.jsonl`` go. What stands there is kept, and
            only what is missing is computed: the caller has checked that the configuration is the
            same.
        cache: Scores on disk, where they shall outlive the run.
        callbacks: Who watches.
    """

    def __init__(
        self,
        points: Sequence[Point],
        *,
        n_traces: int,
        resamples: int,
        seed: int,
        generators: Mapping[str, GeneratorSize],
        folder: Path,
        cache: ScoreCache | None = None,
        callbacks: Sequence[EvaluatorCallback] = (),
    ) -> None:
        if n_traces < 2:
            raise InputError(f"a vote needs at least 2 traces a question, got {n_traces}.")
        if resamples < 1:
            raise InputError(f"resamples must be at least 1, got {resamples}.")
        self._points = points
        self._n_traces = n_traces
        self._resamples = resamples
        self._seed = seed
        self._generators = generators
        self._folder = folder
        self._cache = cache
        self._callbacks = callbacks

    def run(self, questions: Sequence[QuestionTraces], engine: Engine, judge: Judge) -> SweepResult:
        """Evaluate; a point that fails on a question is recorded as failed and the sweep goes on.

        Raises:
            InputError: If a question has no gold answer or too few traces, before anything runs.
        """
        check_questions(questions, self._n_traces)
        log = OutcomeLog(self._folder / "outcomes.jsonl")
        keys = [_key(q) for q in questions]
        plan = SweepPlan(
            self._points,
            questions,
            sum(k in log.outcomes for k in keys),
            self._n_traces,
            judge.provenance.name,
            self._folder,
        )
        self._tell("on_sweep_start", plan)
        for question, key in zip(questions, keys, strict=True):
            if key not in log.outcomes:
                self._tell("on_question_start", question)
                log.append(key, self._question(question, engine, judge))
                self._tell("on_question_end", question)
        rows = sweep_rows(
            self._points,
            {k: log.outcomes[k] for k in keys},
            n_traces=self._n_traces,
            judge=judge.provenance.name,
            seed=self._seed,
        )
        path = self._folder / "results.jsonl"
        write_rows(path, rows)
        for row in rows:
            self._tell("on_point_end", row)
        result = SweepResult(plan, rows, path)
        self._tell("on_sweep_end", result)
        return result

    def _question(
        self, group: QuestionTraces, engine: Engine, judge: Judge
    ) -> dict[str, PointOutcome]:
        scores = QuestionScores(judge, self._cache)
        correct = {t.answer_class for t in group.traces if t.is_correct}
        outcomes = {}
        for point in self._points:
            try:
                outcome, bills = self._point(point, group, correct, scores, engine)
            except Exception as error:  # recorded with its reason; the sweep exits non-zero
                outcome, bills = PointOutcome.failed(f"{type(error).__name__}: {error}"), []
            outcomes[point.key] = outcome
            self._tell("on_point_progress", point, group, bills)
        return outcomes

    def _point(
        self,
        point: Point,
        group: QuestionTraces,
        correct: set[int],
        scores: QuestionScores,
        engine: Engine,
    ) -> tuple[PointOutcome, list[Bill]]:
        question = group.question
        size = generator_size(group.model, self._generators)
        is_correct: list[bool] = []
        any_correct: list[bool] = []
        bills: list[Bill] = []
        for resample in range(self._resamples):
            names = (question.dataset, question.question_id, group.model, resample)
            session = engine.open(
                question, group.model, self._n_traces, derive(self._seed, resample)
            )
            asked = scores.run(session)
            outcome = run_question(
                point.policy,
                session,
                self._n_traces,
                asked,
                generator(self._seed, *names, "policy"),
                _PointWatcher(point, self._callbacks),
            )
            voters = [outcome.final.answer_class[t] for t in outcome.vote.voters]
            is_correct.append(outcome.vote.answer_class in correct)
            any_correct.append(any(int(c) in correct for c in voters))
            bills.append(draw_bill(outcome, asked.cost, size))
        return PointOutcome.of(is_correct, any_correct, bills), bills

    def _tell(self, hook: str, *facts: object) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(*facts)


class _PointWatcher:
    """Passes a question's checkpoints and decisions on, with their point."""

    def __init__(self, point: Point, callbacks: Sequence[EvaluatorCallback]) -> None:
        self._point = point
        self._callbacks = callbacks

    def on_checkpoint(self, step: Step, seen: Observation) -> None:
        for callback in self._callbacks:
            callback.on_checkpoint(self._point, step, seen)

    def on_decision(self, decision: Decision) -> None:
        for callback in self._callbacks:
            callback.on_decision(self._point, decision)


def _key(group: QuestionTraces) -> QuestionKey:
    return group.question.dataset, group.question.question_id, group.model
