"""Pruning sweep, for `train` and `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepprune.callbacks.sweep_figure import FIGURE
from deepprune.commands.run import Run
from deepprune.config.plans import Sweep
from deepprune.core.errors import InputError
from deepprune.core.protocols import Need
from deepprune.core.types import QuestionRef
from deepprune.evaluation.evaluator import evaluate
from deepprune.evaluation.grid import Point
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.metrics import ABOVE_CONSENSUS, too_few_questions
from deepprune.evaluation.outcomes import RESULTS, Row
from deepprune.evaluation.runner import QuestionRunner
from deepprune.evaluation.selection import check_needs, with_needs_met
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache
from deepprune.report.labels import labels, policy_label
from deepprune.traces.summary import mean_lengths


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
) -> list[Row]:
    """Evaluate with each of ``judges`` into the run's folder, watched by callbacks and W&B."""
    runner = QuestionRunner(
        sweep_points(sweep, questions, n_traces, {n: j.needs for n, j in judges.items()}),
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
        run.folder,
        distributed=sweep.distributed,
        watchers=sweep.watchers,
        baseline=sweep.baseline,
        margin=sweep.margin,
    )
    run.results_path = run.folder / RESULTS
    run.tracker.table("prune/results", [row.columns for row in rows])
    run.tracker.figure("prune/figure", run.folder / FIGURE)
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        run.status = "failed"
        print(f"{len(failed)} of {len(rows)} points failed: {failed[0].reason}")
    if (warning := too_few_questions(rows)) is not None:
        print(warning)
    return rows


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


def headline(rows: Sequence[Row], run: Run) -> None:
    """Keep the middle point of the first policy and judge for the comparison of a multirun."""
    measured = [row for row in rows if row.policy != "consensus" and row.status == "ok"]
    if not measured:
        return
    first = (policy_label(measured[0]), measured[0].judge)
    points = [row for row in measured if (policy_label(row), row.judge) == first]
    row = points[len(points) // 2]
    shown = {n: row.metrics[n] for n in ("accuracy", ABOVE_CONSENSUS, "token_saving", "net_saving")}
    found = {name: estimate for name, estimate in shown.items() if estimate is not None}
    run.metrics |= found
    settings = {n: row.axes.get(f) for n, f in (("threshold",) * 2, ("prefix", "prefix_len"))}
    values = {**found, **settings, "latency": row.counts.get("latency")}
    run.tracker.values("prune", {f"headline_{name}": value for name, value in values.items()})
    run.point = labels(rows)[[r is row for r in rows].index(True)]
