"""The loop of a sweep over questions and grid points; every question is recorded when complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepprune.core.errors import InputError
from deepprune.core.types import QuestionRef
from deepprune.evaluation.distributed import Distributed, Processes
from deepprune.evaluation.metrics import sweep_rows
from deepprune.evaluation.outcomes import Outcomes, OutcomeStore, write_rows
from deepprune.evaluation.runner import QuestionRunner, Task
from deepprune.evaluation.selection import check_needs, check_questions
from deepprune.evaluation.watcher import SweepPlan, SweepResult, Watcher
from deepprune.traces.tokens import token_ends


class Evaluator:
    """Runs every grid point on every question, for several orders of the traces.

    Args:
        runner: Evaluates a question; holds the grid, the judges and the engine.
        folder: Where ``outcomes/`` and ``results.jsonl`` go. Recorded questions are kept and only
            missing ones evaluated: the caller has checked that the configuration is the same.
        distributed: Where the questions are evaluated.
        watchers: Told of what happens.
        baseline: The policy that others are compared with at equal tokens, besides consensus.
        margin: Margin of non-inferiority, a share of the questions.
    """

    def __init__(
        self,
        runner: QuestionRunner,
        folder: Path,
        *,
        distributed: Distributed | None = None,
        watchers: Sequence[Watcher] = (),
        baseline: str = "consensus",
        margin: float = 0.01,
    ) -> None:
        if runner.n_traces < 2:
            raise InputError(f"a vote needs at least 2 traces a question, got {runner.n_traces}.")
        if runner.resamples < 1:
            raise InputError(f"resamples must be at least 1, got {runner.resamples}.")
        runner.is_watched = any(watcher.watches_runs for watcher in watchers)
        self._runner = runner
        self._folder = folder
        self._distributed = distributed or Processes(1)
        self._watchers = watchers
        self._baseline, self._margin = baseline, margin

    def run(self, questions: Sequence[QuestionRef]) -> SweepResult:
        """Evaluate; a point that fails on a question is recorded as failed and the sweep goes on.

        Raises:
            InputError: If a question has no gold answer or too few traces, or the traces lack what
                a policy needs, before anything runs.
        """
        runner = self._runner
        check_questions(questions, runner.n_traces)
        needs = {name: judge.needs for name, judge in runner.judges.items()}
        check_needs(runner.points, runner.load(questions[0]), needs)
        store = OutcomeStore(self._folder / "outcomes", runner.points)
        everywhere = range(len(runner.points))
        n_recorded = sum(store.has(ref.key, everywhere) for ref in questions)
        plan = SweepPlan(
            runner.points,
            questions,
            n_recorded,
            runner.n_traces,
            runner.resamples,
            list(runner.judges),
            self._baseline,
            self._folder,
        )
        self._tell("on_sweep_start", plan)
        dropped: dict[int, str] = {}
        with self._distributed.workers(runner, len(questions) - n_recorded) as work:
            for start, stop in self._blocks(len(questions)):
                skip = frozenset(dropped)
                todo = [ref for ref in questions[start:stop] if not store.has(ref.key, skip)]
                lengths = map(len, token_ends([ref.question.text for ref in todo]))
                tasks = [Task(ref, n, skip) for ref, n in zip(todo, lengths, strict=True)]
                for task, outcomes in zip(tasks, work(tasks), strict=True):
                    self._tell("on_question_start", task.ref)
                    for number, hook, facts in outcomes.events:
                        self._tell(hook, runner.points[number], *facts)
                    store.write(task.ref.key, outcomes)
                    self._tell("on_question_end", task.ref, outcomes)
                if stop < len(questions):
                    seen = [ref.key for ref in questions[:stop]]
                    so_far = Outcomes(store, runner.points, seen, dropped)
                    for watcher in self._watchers:
                        dropped = watcher.give_up(so_far) | dropped
        rows = sweep_rows(
            Outcomes(store, runner.points, [ref.key for ref in questions], dropped),
            seed=runner.seed,
            margin=self._margin,
            baseline=self._baseline,
        )
        path = self._folder / "results.jsonl"
        write_rows(path, rows)
        for row in rows:
            self._tell("on_point_end", row)
        result = SweepResult(plan, rows, path)
        self._tell("on_sweep_end", result)
        return result

    def _blocks(self, n_questions: int) -> list[tuple[int, int]]:
        """Ranges of questions between two calls of ``give_up``; one of all where none is asked for.

        They depend neither on where questions are evaluated nor on an interruption.
        """
        every = [w.look_every for w in self._watchers if w.look_every is not None]
        size = min(every, default=n_questions)
        return [(i, min(i + size, n_questions)) for i in range(0, n_questions, size)]

    def _tell(self, hook: str, *facts: object) -> None:
        for watcher in self._watchers:
            getattr(watcher, hook)(*facts)
