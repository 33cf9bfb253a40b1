"""The loop: questions x policies x grid points, watched by callbacks, recorded as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepprune.core.errors import InputError
from deepprune.core.protocols import Step
from deepprune.core.types import QuestionRef
from deepprune.evaluation.distributed import Distributed, Processes
from deepprune.evaluation.metrics import sweep_rows
from deepprune.evaluation.outcomes import Outcomes, OutcomeStore, write_rows
from deepprune.evaluation.runner import Done, QuestionRunner, Task
from deepprune.evaluation.selection import check_needs, check_questions
from deepprune.evaluation.watcher import EvaluatorCallback, SweepPlan, SweepResult
from deepprune.traces.tokens import token_ends


class Evaluator:
    """Runs every grid point on every question, for several orders of the traces.

    Args:
        runner: Does a question; holds the grid, the judge and the engine.
        folder: Where ``outcomes/`` and ``results.jsonl`` go. What stands there is kept, and only
            what is missing is computed: the caller has checked that the configuration is the same.
        distributed: Who does the questions.
        callbacks: Who watches.
        baseline: The policy that others are compared with at equal tokens.
        margin: Of non-inferiority, a share of the questions.
    """

    def __init__(
        self,
        runner: QuestionRunner,
        folder: Path,
        *,
        distributed: Distributed | None = None,
        callbacks: Sequence[EvaluatorCallback] = (),
        baseline: str = "consensus",
        margin: float = 0.01,
    ) -> None:
        if runner.n_traces < 2:
            raise InputError(f"a vote needs at least 2 traces a question, got {runner.n_traces}.")
        if runner.resamples < 1:
            raise InputError(f"resamples must be at least 1, got {runner.resamples}.")
        runner.is_watched = any(_watches(callback) for callback in callbacks)
        self._runner = runner
        self._folder = folder
        self._distributed = distributed or Processes(1)
        self._callbacks = callbacks
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
                for task, done in zip(tasks, work(tasks), strict=True):
                    self._tell("on_question_start", task.ref)
                    self._replay_events(done)
                    store.write(task.ref.key, done.outcomes)
                    self._tell("on_question_end", task.ref, done.outcomes)
                if stop < len(questions):
                    seen = [ref.key for ref in questions[:stop]]
                    so_far = Outcomes(store, runner.points, seen, dropped)
                    for callback in self._callbacks:
                        dropped = callback.give_up(so_far) | dropped
        outcomes = Outcomes(store, runner.points, [ref.key for ref in questions], dropped)
        rows = sweep_rows(
            outcomes,
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
        """Questions between two looks at what can be given up; all, where nobody looks.

        The looks do not depend on who does the questions, nor on where a run was interrupted.
        """
        every = [c.look_every for c in self._callbacks if c.look_every is not None]
        size = min(every, default=n_questions)
        return [(i, min(i + size, n_questions)) for i in range(0, n_questions, size)]

    def _replay_events(self, done: Done) -> None:
        for event in done.events:
            point = self._runner.points[event[0]]
            if isinstance(event[1], Step):
                self._tell("on_checkpoint", point, *event[1:])
            else:
                self._tell("on_decision", point, event[1])

    def _tell(self, hook: str, *facts: object) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(*facts)


def _watches(callback: EvaluatorCallback) -> bool:
    mine = type(callback)
    return any(
        getattr(mine, hook) is not getattr(EvaluatorCallback, hook)
        for hook in ("on_checkpoint", "on_decision")
    )
