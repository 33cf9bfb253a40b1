"""The rows of a sweep from the outcomes of its questions; `docs/measures.md` lists the columns.

N is the row's own ``n_traces``; *the curve* is cons@k over all k of the sweep, *the hull* the
concave hull of cons@k and adaptive consistency; see `statistics.Curve` for how a point is placed on
them and what happens beyond their ends. What compares cons@N with itself, and what is not a number,
is ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepprune.core.errors import InputError
from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.statistics import (
    LEVEL,
    Bootstrap,
    Curve,
    Estimate,
    frontier,
    holm,
    hull,
    mcnemar_p,
    non_inferiority_p,
    order_error,
    questions_needed,
)
from deepprune.evaluation.grid import Point
from deepprune.evaluation.outcomes import Outcomes, Row
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.consensus import Consensus

Metrics = dict[str, list[Estimate | None]]
Counts = dict[str, list[float | None]]

ABOVE_CONSENSUS = "accuracy_vs_matched_cons"
ABOVE_CONSENSUS_NET = "accuracy_vs_matched_cons_net"
ABOVE_HULL = "accuracy_vs_hull"
ABOVE_BASELINE = "accuracy_vs_matched_baseline"
CONSENSUS = "consensus"
CHUNK = 1000
"""Points whose draws are compared at once: 16 MB an array at 2,000 draws."""

_OTHER_COSTS = (
    "tokens_sequential", "latency", "peak_traces", "engine_seconds", "judge_seconds",
    "judge_calls", "judge_tokens", "cost",
)  # fmt: skip


def sweep_rows(
    outcomes: Outcomes,
    *,
    seed: int,
    margin: float = 0.01,
    baseline: str = CONSENSUS,
    engine_steps: str = "",
) -> list[Row]:
    """Return one row per point; estimates have 95 % intervals, see `statistics.Bootstrap`.

    Args:
        outcomes: The recorded questions.
        seed: Seed of the bootstrap.
        margin: Margin of non-inferiority, a share of the questions.
        baseline: Name of the policy to compare with besides consensus sampling.
        engine_steps: Name of the step times, a fact of every row.

    Raises:
        InputError: If no point has a policy named ``baseline``.
    """
    names = {p.policy.name for p in outcomes.points}
    if baseline not in names:
        raise InputError(f"baseline {baseline!r} is not in the sweep, it has {sorted(names)}.")
    unmeasured = _unmeasured(outcomes)
    measured = [i for i in range(len(outcomes.points)) if i not in unmeasured]
    some = outcomes.only(measured)
    is_correct = some["is_correct"]
    questions = [f"{dataset}\n{question}" for dataset, question, _ in outcomes.questions]
    bootstrap = Bootstrap(questions, seed)
    sizes = {"n_questions": bootstrap.n_questions, "resamples": is_correct.shape[1]}
    facts = {**sizes, "seed": seed, "margin": margin, "engine_steps": engine_steps}
    metrics: Metrics = {}
    counts: Counts = {}
    if measured:
        metrics, counts = _numbers(some, is_correct, bootstrap, facts, baseline)
        tested = [
            i for i, p in enumerate(some.points) if p.policy.name not in {CONSENSUS, baseline}
        ]
        p = [*(counts["p_mcnemar"][i] for i in tested), *(1.0 for _ in outcomes.dropped)]
        for i, adjusted in zip(tested, holm(np.array(p)).tolist(), strict=False):
            counts["p_mcnemar_holm"][i] = adjusted
    place = {number: i for i, number in enumerate(measured)}
    rows = []
    for number, point in enumerate(outcomes.points):
        axes = {**point.axes, "judge": point.judge, "n_traces": point.n_traces}
        if number in unmeasured:
            rows.append(Row(point.policy.name, axes, facts, {}, {}, *unmeasured[number]))
            continue
        i = place[number]
        found = {name: values[i] for name, values in metrics.items()}
        numbers = {name: values[i] for name, values in counts.items()}
        rows.append(Row(point.policy.name, axes, facts, found, numbers))
    return rows


def _unmeasured(outcomes: Outcomes) -> dict[int, tuple[str, str]]:
    """Return status and reason of the points without a full measurement."""
    points = outcomes.points
    unmeasured = {i: ("dropped", reason) for i, reason in outcomes.dropped.items()}
    unmeasured |= {i: ("failed", reason) for i, reason in outcomes.failures.items()}
    sizes = {_size(p) for i, p in enumerate(points) if i not in unmeasured}
    largest = max(p.n_traces for p in points)
    for i, point in enumerate(points):
        missing = {point.n_traces, largest} - sizes
        if i not in unmeasured and missing:
            reason = f"cons@{max(missing)} was not measured: there is nothing to compare with."
            unmeasured[i] = ("failed", reason)
    return unmeasured


def _size(point: Point) -> int | None:
    """Return the k of cons@k, ``None`` for other policies."""
    if not isinstance(point.policy, Consensus):
        return None
    return point.n_traces if point.policy.k is None else point.policy.k


def _numbers(
    outcomes: Outcomes,
    is_correct: NDArray[Any],
    bootstrap: Bootstrap,
    facts: Mapping[str, float],
    baseline: str,
) -> tuple[Metrics, Counts]:
    """Return metrics and counts of measured points, see `Row`."""
    points = outcomes.points
    place = {k: i for i, point in enumerate(points) if (k := _size(point)) is not None}
    full = np.array([place[p.n_traces] for p in points])  # position of each one's cons@N
    consensus = np.array([place[k] for k in sorted(place)])
    draws, counts = _reduced(outcomes, is_correct, bootstrap)
    first, by_question = is_correct[:, 0], bootstrap.by_question(is_correct)
    of_full = first[:, full]
    p_mcnemar = mcnemar_p((of_full & ~first).sum(axis=0), (first & ~of_full).sum(axis=0))
    counts["p_mcnemar"] = p_mcnemar.tolist()
    counts["p_mcnemar_holm"] = [None] * len(points)
    differences = by_question - by_question[:, full]
    spread = differences.std(axis=0, ddof=min(1, len(differences) - 1))  # 0 of one question
    counts["n_questions_needed"] = questions_needed(spread, facts["margin"]).tolist()
    largest = float(bootstrap.by_question(np.ones((len(is_correct), 1, 1))).max())
    counts["is_non_inferior"] = []
    counts["accuracy_se_orders"] = _nullable(order_error(is_correct))

    tokens, accuracy = draws["tokens"], draws["accuracy"]
    steps = (Consensus, AdaptiveConsistency)
    mixed = np.flatnonzero([isinstance(p.policy, steps) for p in points])
    vertices = mixed[hull(tokens[0, mixed], accuracy[0, mixed])]
    curves = {
        name: Curve(tokens[:, some], accuracy[:, some])
        for name, some in ((ABOVE_CONSENSUS, consensus), (ABOVE_HULL, vertices))
    }
    own = np.flatnonzero([p.policy.name == baseline for p in points])
    if baseline != CONSENSUS and len(own):
        best = own[frontier(tokens[0, own], accuracy[0, own])]
        curves[ABOVE_BASELINE] = Curve(tokens[:, best], accuracy[:, best])
    counts["matched_k"] = np.interp(tokens[0], tokens[0, consensus], sorted(place)).tolist()
    metrics: Metrics = {"pass_any": bootstrap.mean(outcomes["any_correct"])}
    if baseline != CONSENSUS:
        metrics[ABOVE_BASELINE] = [] if len(own) else [None] * len(points)
    with np.errstate(divide="ignore", invalid="ignore"):  # unknown sizes
        each = tokens[0, full] / draws["generator_flops"][0, full]
        counts["tokens_net"] = _nullable(tokens[0] + draws["judge_flops"][0] * each)
        for start in range(0, len(points), CHUNK):
            chunk = slice(start, start + CHUNK)
            compared = _compare(draws, full[chunk], chunk, curves)
            p = non_inferiority_p(
                differences[:, chunk], facts["margin"], largest=largest, seed=int(facts["seed"])
            )
            counts["is_non_inferior"] += (p < 1 - LEVEL).tolist()
            for name, values in compared.items():
                metrics.setdefault(name, []).extend(bootstrap.estimate(values))
    for i in np.flatnonzero(full == np.arange(len(full))).tolist():
        for name in ("p_mcnemar", "is_non_inferior", "n_questions_needed"):
            counts[name][i] = None
    return metrics, counts


def _reduced(
    outcomes: Outcomes, is_correct: NDArray[Any], bootstrap: Bootstrap
) -> tuple[dict[str, FloatArray], Counts]:
    """Return draws of accuracy, tokens and FLOPs, see `statistics`, and means of the costs.

    One field is in memory at a time.
    """
    counts: Counts = {}
    tokens = np.zeros(is_correct.shape, dtype=np.int64)
    for name in ("tokens_finished", "tokens_pruned", "tokens_forced", *_OTHER_COSTS):
        values = outcomes[name]
        if name not in _OTHER_COSTS:
            tokens += values
        counts[name] = _nullable(values.mean(axis=(0, 1), dtype=np.float64))
    counts["tokens"] = _nullable(tokens.mean(axis=(0, 1), dtype=np.float64))
    counts["tokens_prompt"] = [float(outcomes.tokens_prompt.mean())] * len(outcomes.points)
    draws = {"accuracy": bootstrap.draws(is_correct), "tokens": bootstrap.draws(tokens)}
    for name in ("generator_flops", "judge_flops"):
        draws[name] = bootstrap.draws(outcomes[name])
        counts[name] = _nullable(draws[name][0])
    return draws, counts


def _compare(
    draws: Mapping[str, FloatArray], full: IntArray, chunk: slice, curves: Mapping[str, Curve]
) -> dict[str, FloatArray]:
    """Return draws of the accuracy and the comparisons of some of the points, by name.

    Args:
        draws: See `_reduced`.
        full: Position of the cons@N of each of these points.
        chunk: Their positions.
        curves: Curves to compare with at equal tokens, by the name of the metric.
    """
    accuracy, tokens = draws["accuracy"][:, chunk], draws["tokens"][:, chunk]
    flops, judge_flops = draws["generator_flops"][:, chunk], draws["judge_flops"][:, chunk]
    full_tokens, full_flops = draws["tokens"][:, full], draws["generator_flops"][:, full]
    consensus = curves[ABOVE_CONSENSUS]
    needed = consensus.tokens_to_reach(accuracy)
    judge_tokens = judge_flops * (full_tokens / full_flops)
    compared = {
        "accuracy": accuracy,
        "accuracy_vs_cons_n": accuracy - draws["accuracy"][:, full],
        **{name: accuracy - curve.accuracy_at(tokens) for name, curve in curves.items()},
        ABOVE_CONSENSUS_NET: accuracy - consensus.accuracy_at(tokens + judge_tokens),
        "tokens_vs_matched_accuracy": tokens / needed,
        "token_saving": 1 - tokens / full_tokens,
        "net_saving": (full_flops - flops - judge_flops) / full_flops,
    }
    compared["tokens_vs_matched_accuracy"][0, np.isinf(needed[0])] = np.nan
    return compared


def _nullable(values: FloatArray) -> list[float | None]:
    return [None if np.isnan(v) else v for v in values.tolist()]


def too_few_questions(rows: Sequence[Row]) -> str | None:
    """Say how many questions each policy needs, where all its points need more than there are.

    So many would show with 80 % power that a point as good as cons@N loses less than the margin,
    see `statistics.questions_needed`.
    """
    needed: dict[str, list[int]] = {}
    for row in rows:
        if row.policy != CONSENSUS and (n := row.counts.get("n_questions_needed")) is not None:
            name = row.policy if row.judge is None else f"{row.policy} ({row.judge})"
            needed.setdefault(name, []).append(int(n))
    n_questions = max((int(row.facts["n_questions"]) for row in rows), default=0)
    said = [
        f"{name} {' to '.join(f'{k:,}' for k in sorted({min(n), max(n)}))}"
        for name, n in needed.items()
        if min(n) > n_questions
    ]
    if not said:
        return None
    return (
        f"{n_questions} questions are too few to show an accuracy within "
        f"sweep.margin={rows[0].facts['margin']:g} of cons@N; needed are: {', '.join(said)}."
    )
