"""The loop of a sweep over its questions; every question is recorded when complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepprune.core.types import QuestionRef
from deepprune.evaluation.best import CHOSEN, best_rows
from deepprune.evaluation.distributed import Distributed, Processes
from deepprune.evaluation.metrics import sweep_rows
from deepprune.evaluation.outcomes import OUTCOMES, RESULTS, Outcomes, OutcomeStore, Row, write_rows
from deepprune.evaluation.runner import QuestionRunner, Task
from deepprune.evaluation.selection import check_needs, check_questions
from deepprune.evaluation.watcher import SweepPlan, Watcher
from deepprune.traces.tokens import token_ends


def evaluate(
    runner: QuestionRunner,
    questions: Sequence[QuestionRef],
    folder: Path,
    *,
    distributed: Distributed | None = None,
    watchers: Sequence[Watcher] = (),
    baseline: str = "consensus",
    margin: float = 0.01,
) -> list[Row]:
    """Run every grid point on every question, for several orders of the traces.

    A point that fails on a question is recorded as failed, and the sweep goes on.

    Args:
        runner: Evaluates a question; holds the grid, the judges and the engine.
        questions: The questions.
        folder: Where ``outcomes/``, ``results.jsonl`` and ``chosen.jsonl`` are written. Recorded
            questions are kept and only missing ones evaluated: the caller has checked that the
            configuration is the same.
        distributed: Where the questions are evaluated; ``None`` for this process.
        watchers: Told of what happens.
        baseline: The policy that others are compared with at equal tokens, besides consensus.
        margin: Margin of non-inferiority, a share of the questions.

    Returns:
        The rows, in the order of the grid.

    Raises:
        InputError: If a question has no gold answer or too few traces, or the traces lack what a
            policy needs, before anything runs.
    """
    points = runner.points
    check_questions(questions, runner.n_traces)
    needs = {name: judge.needs for name, judge in runner.judges.items()}
    group = runner.load(questions[0])
    check_needs(points, group, needs)
    runner.is_watched = any(watcher.watches_runs for watcher in watchers)

    def tell(hook: str, *facts: object) -> None:
        for watcher in watchers:
            getattr(watcher, hook)(*facts)

    store = OutcomeStore(folder / OUTCOMES, points)
    n_recorded = sum(store.has(ref.key, range(len(points))) for ref in questions)
    plan = SweepPlan(
        points, questions, n_recorded, runner.n_traces, runner.resamples, list(runner.judges),
        baseline, folder,
    )  # fmt: skip
    tell("on_sweep_start", plan)
    dropped: dict[int, str] = {}
    with (distributed or Processes(1)).workers(runner, len(questions) - n_recorded) as work:
        for start, stop in _blocks(len(questions), watchers):
            skip = frozenset(dropped)
            todo = [ref for ref in questions[start:stop] if not store.has(ref.key, skip)]
            lengths = map(len, token_ends([ref.question.text for ref in todo]))
            tasks = [Task(ref, n, skip) for ref, n in zip(todo, lengths, strict=True)]
            for task, outcomes in zip(tasks, work(tasks), strict=True):
                tell("on_question_start", task.ref)
                for number, hook, facts in outcomes.events:
                    tell(hook, points[number], *facts)
                store.write(task.ref.key, outcomes)
                tell("on_question_end", task.ref, outcomes)
            if stop < len(questions):
                so_far = Outcomes(store, points, [ref.key for ref in questions[:stop]], dropped)
                for watcher in watchers:
                    dropped = watcher.give_up(so_far) | dropped
    keys = [ref.key for ref in questions]
    everything = Outcomes(store, points, keys, dropped)
    steps = runner.make_engine(group, 0).steps.name
    rows = sweep_rows(
        everything, seed=runner.seed, margin=margin, baseline=baseline, engine_steps=steps
    )
    write_rows(folder / RESULTS, rows)
    judge = next(iter(runner.judges), None)
    best = best_rows(store, points, keys, rows, judge=judge, baseline=baseline)
    write_rows(folder / CHOSEN, best)
    tell("on_sweep_end", plan, rows)
    return rows


def _blocks(n_questions: int, watchers: Sequence[Watcher]) -> list[tuple[int, int]]:
    """Return ranges of questions between two calls of ``give_up``, else one of all.

    They depend neither on where questions are evaluated nor on an interruption.
    """
    every = [w.look_every for w in watchers if w.look_every is not None]
    size = min(every, default=n_questions)
    return [(i, min(i + size, n_questions)) for i in range(0, n_questions, size)]
