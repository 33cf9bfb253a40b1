"""Pruning sweep, for `train` and `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from deepprune.callbacks.sweep_figure import FIGURE
from deepprune.commands.run import Run
from deepprune.config.plans import Sweep
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file, write_atomic
from deepprune.core.protocols import Need
from deepprune.core.types import QuestionRef
from deepprune.evaluation.best import CHOSEN, best_number, read_best
from deepprune.evaluation.evaluator import evaluate
from deepprune.evaluation.grid import Point
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.metrics import ABOVE_CONSENSUS, CONSENSUS
from deepprune.evaluation.outcomes import (
    OUTCOMES,
    QUESTIONS,
    RESULTS,
    Outcomes,
    OutcomeStore,
    Row,
)
from deepprune.evaluation.runner import QuestionRunner, Task, question_records
from deepprune.evaluation.selection import check_needs, with_needs_met
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache
from deepprune.report.labels import labels, main_row, middle_rows
from deepprune.report.sentences import best_sentences
from deepprune.traces.summary import agreements, mean_lengths
from deepprune.traces.tokens import token_ends

COMPARED = ("accuracy", ABOVE_CONSENSUS, "token_saving", "net_saving")
"""Metrics of the headline and of the best point."""

NETWORKS = "networks"
"""Folder of the sweep of ``sweep.networks``."""


def chosen_questions(
    sweep: Sweep, refs: Sequence[QuestionRef], needs: Mapping[str, frozenset[Need]]
) -> tuple[list[QuestionRef], int]:
    """Choose the questions and N; check the grid, the traces and the generators' sizes.

    Args:
        sweep: Axes and traces.
        refs: What to choose from.
        needs: What each judge reads, by name.

    Raises:
        InputError: If the grid is not sound, the traces lack what a policy or a judge needs, or the
            size of a generator is not known.
    """
    questions, n_traces = sweep.choose(refs)
    points = sweep_points(sweep, questions, n_traces, needs)
    left = {p.name for p in sweep.policies.values()} - {point.policy.name for point in points}
    if left:
        print(f"skipped, since these traces lack what they need: {', '.join(sorted(left))}")
    _sizes(sweep, questions)
    return questions, n_traces


def run_sweep(
    sweep: Sweep,
    questions: Sequence[QuestionRef],
    n_traces: int,
    judges: Mapping[str, Judge],
    run: Run,
    cache: ScoreCache,
) -> list[list[Row]]:
    """Evaluate with each of ``judges`` into the run's folder, watched by callbacks and W&B.

    Returns:
        The rows, and with ``sweep.networks`` those of the judges that are neural networks.
    """
    networks = {name: j for name, j in judges.items() if j.is_model and sweep.networks is not None}
    others = {name: judge for name, judge in judges.items() if name not in networks}
    points, rows = _evaluated(sweep, questions, n_traces, others, run, cache, run.folder)
    found = [rows]
    if networks and sweep.networks is not None:
        few, _ = sweep.networks.choose(questions)
        folder = run.folder / NETWORKS
        _, rows = _evaluated(sweep.networks, few, n_traces, networks, run, cache, folder)
        found.append(rows)
    run.results_path = run.folder / RESULTS
    _log(sweep, found, questions, points, run)
    return found


def _evaluated(
    sweep: Sweep,
    questions: Sequence[QuestionRef],
    n_traces: int,
    judges: Mapping[str, Judge],
    run: Run,
    cache: ScoreCache,
    folder: Path,
) -> tuple[list[Point], list[Row]]:
    """Evaluate one grid into ``folder``, say which of its points failed; return it and its rows."""
    points = sweep_points(sweep, questions, n_traces, {n: j.needs for n, j in judges.items()})
    runner = QuestionRunner(
        points,
        n_traces=n_traces,
        resamples=sweep.resamples,
        seed=sweep.seed,
        generators=_sizes(sweep, questions),
        load=sweep.store.group,
        make_engine=sweep.make_engine,
        judges=judges,
        mean_lengths=mean_lengths(sweep.store),
        cache=cache,
        usd_judge=sweep.usd_judge,
    )
    rows = evaluate(
        runner,
        questions,
        folder,
        distributed=sweep.distributed,
        watchers=sweep.watchers,
        baseline=sweep.baseline,
        margin=sweep.margin,
    )
    _write_questions(sweep, questions, runner, rows, folder)
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        run.status = "failed"
        print(f"{len(failed)} of {len(rows)} points failed: {failed[0].reason}")
    return points, rows


def _write_questions(
    sweep: Sweep,
    questions: Sequence[QuestionRef],
    runner: QuestionRunner,
    rows: Sequence[Row],
    folder: Path,
) -> None:
    """Record what became of the traces of some questions, at the middle point of each policy."""
    names = labels(rows)
    numbers = {names[i]: i for i in middle_rows(rows)}
    if numbers and sweep.shown:
        chosen = questions[: sweep.shown]
        lengths = map(len, token_ends([ref.question.text for ref in chosen]))
        tasks = [Task(ref, n) for ref, n in zip(chosen, lengths, strict=True)]
        lines = map(json.dumps, question_records(runner, tasks, numbers))
        write_atomic(folder / QUESTIONS, "".join(f"{line}\n" for line in lines))


def sweep_points(
    sweep: Sweep,
    questions: Sequence[QuestionRef],
    n_traces: int,
    needs: Mapping[str, frozenset[Need]],
) -> list[Point]:
    """Return the grid for judges with these needs; with ``sweep.skip_unmet`` what traces can serve.

    Raises:
        InputError: If the grid is not sound, or the traces lack what a policy or the judge needs.
    """
    points = sweep.points(n_traces, list(needs))
    group = sweep.store.group(questions[0])
    if sweep.skip_unmet:
        points = with_needs_met(points, group, needs)
    check_needs(points, group, needs)
    if sweep.baseline not in (names := {point.policy.name for point in points}):
        raise InputError(
            f"sweep.baseline must be a policy of the sweep, got {sweep.baseline!r}; it has "
            f"{', '.join(sorted(names))}."
        )
    return points


def _sizes(sweep: Sweep, questions: Sequence[QuestionRef]) -> dict[str, GeneratorSize]:
    return {ref.model: sweep.generator(ref.model) for ref in questions}


def headline(sweeps: Sequence[Sequence[Row]], judge: str, run: Run) -> None:
    """Log the main row of a sweep (the headline, see `main_row`) and the best point.

    The headline is of the sweep in which ``judge`` takes part, the first if none, and is kept for
    the comparison of a multirun. The best point is of the first sweep.
    """
    rows = next((rows for rows in sweeps if any(r.judge == judge for r in rows)), sweeps[0])
    columns: Mapping[str, Any] = {}
    if (number := main_row(rows)) is not None:
        row = rows[number]
        columns = row.columns
        found = {name: row.metrics.get(name) for name in COMPARED}
        run.metrics |= {name: value for name, value in found.items() if value is not None}
        run.point = labels(rows)[number]
    best = read_best(run.folder)
    for name, values in (("headline", columns), ("best", best)):
        shown = {n: values.get(n) for n in (*COMPARED, "latency", "policy", "threshold")}
        shown["prefix"] = values.get("prefix_len")
        run.tracker.values("prune", {f"{name}_{n}": value for n, value in shown.items()})
    for sentence in best_sentences(best, sweeps[0]):
        print(fill(sentence, 120))


def _log(
    sweep: Sweep,
    found: Sequence[Sequence[Row]],
    questions: Sequence[QuestionRef],
    points: Sequence[Point],
    run: Run,
) -> None:
    """Log tables, figure and files of a sweep; questions and points are those of the first."""
    rows = found[0]
    if run.tracker.is_on:
        measured = [i for i, r in enumerate(rows) if (r.policy, r.status) == (CONSENSUS, "ok")]
        best = read_best(run.folder)
        chosen = {
            "cons_n": measured[-1] if measured else None,
            "headline": main_row(rows),
            "best": best_number(best, rows) if best else None,
        }
        numbers = {name: number for name, number in chosen.items() if number is not None}
        keys = [ref.key for ref in questions]
        outcomes = Outcomes(OutcomeStore(run.folder / OUTCOMES, points), points, keys)
        agreement = agreements(sweep.store)
        by_question = outcomes.by_question(numbers)
        for key, row in zip(keys, by_question, strict=True):
            row["agreement"] = agreement[key]
        run.tracker.table("prune/by_question", by_question)
    run.tracker.table("prune/results", [row.columns for rows in found for row in rows])
    run.tracker.figure("prune/figure", run.folder / FIGURE)
    files = [run.folder / name for name in (RESULTS, CHOSEN)]
    run.tracker.artifact("results", files, sha256_file(files[0]))
