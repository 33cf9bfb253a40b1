"""The rows of a sweep from the outcomes of its questions.

N is the row's own ``n_traces``; *the curve* is cons@k over all k of the sweep, see
`statistics.Curve` for how a point is placed on it and what happens beyond its ends. A row has:

- ``policy``, its axes, ``judge`` (``None`` where it asks none), ``n_questions``, ``n_traces``,
  ``resamples``, ``seed``, ``margin``;
- ``accuracy``: share of questions whose vote is right, mean over orders of the traces;
- ``pass_any``: share where any trace that was asked to vote is right;
- ``accuracy_vs_cons_n``: paired difference to cons@N;
- ``accuracy_vs_matched_cons``: paired difference to the curve at the same tokens;
  ``matched_k`` is the k there, between two k interpolated like the accuracy;
- ``accuracy_vs_matched_cons_net``: the same, with the judge's bill added to the tokens: its
  FLOPs over the FLOPs of a token of cons@N;
- ``tokens_vs_matched_accuracy``: tokens over those at which the curve reaches the accuracy;
  below 1 it saves. ``None`` where the curve never reaches it; 0 at the lower end of the
  interval where it may not;
- ``accuracy_vs_matched_baseline``, where ``baseline`` is another policy: paired difference to
  its points that no other of its points beats in tokens and accuracy. They are chosen on the
  same questions, which favours the baseline;
- ``token_saving`` (gross): 1 - tokens / tokens of cons@N;
- ``net_saving``: (generator FLOPs saved - judge FLOPs) / generator FLOPs of cons@N;
- ``p_mcnemar``: exact test of the votes against those of cons@N in the first order of the
  traces alone, what one run of both would have shown; several models of a question count as
  so many pairs. ``p_mcnemar_holm``: adjusted for all points of the sweep but those of
  consensus sampling and ``baseline``; dropped points count, with p = 1;
- ``is_non_inferior``: a loss of ``margin`` or more against cons@N is ruled out;
  ``n_questions_needed`` to rule it out if there is no difference;
- means a question: ``tokens`` = ``tokens_finished`` + ``tokens_pruned`` + ``tokens_forced``;
  ``tokens_net``, with the judge's FLOPs as tokens of cons@N;
  ``tokens_sequential`` (one after the other), ``peak_traces``, ``tokens_prompt``,
  ``judge_calls``, ``judge_tokens``, ``judge_flops``, ``generator_flops``, ``seconds`` (of the
  engine's clock), ``cost`` (``None`` without a price);
- ``status`` and ``reason``, see `Row`.

What compares cons@N with itself, and what is not a number, is ``None``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from deepprune.core.errors import InputError
from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.statistics import (
    LEVEL,
    Curve,
    Estimate,
    NestedBootstrap,
    estimate,
    frontier,
    holm,
    is_non_inferior,
    mcnemar_p,
    questions_needed,
)
from deepprune.evaluation.grid import Point
from deepprune.evaluation.outcomes import Outcomes, Row
from deepprune.pruning.policies.consensus import Consensus

ABOVE_CONSENSUS = "accuracy_vs_matched_cons"
ABOVE_CONSENSUS_NET = "accuracy_vs_matched_cons_net"
ABOVE_BASELINE = "accuracy_vs_matched_baseline"
CONSENSUS = "consensus"
CHUNK = 1000
"""Points whose draws are compared at once: 16 MB an array at 2,000 draws."""

_OTHER_COSTS = (
    "tokens_sequential", "peak_traces", "judge_calls", "judge_tokens", "seconds", "cost",
)  # fmt: skip


def sweep_rows(
    outcomes: Outcomes, *, seed: int, margin: float = 0.01, baseline: str = CONSENSUS
) -> list[Row]:
    """One row per point, see the head of this module for its names.

    Estimates carry their 95 % interval, see `statistics.NestedBootstrap`.

    Args:
        outcomes: What was measured; each field is asked for once.
        seed: Seed of the bootstrap.
        margin: Of the test for non-inferiority, as a share of the questions.
        baseline: Name of the policy to compare with besides consensus sampling.

    Raises:
        InputError: If no point has a policy named ``baseline``, or the margin is not in (0, 1).
    """
    names = {p.policy.name for p in outcomes.points}
    if baseline not in names:
        raise InputError(f"baseline {baseline!r} is not in the sweep, it has {sorted(names)}.")
    if not 0 < margin < 1:
        raise InputError(f"margin must lie in (0, 1), got {margin}: 0.01 is one point.")
    is_correct = outcomes["is_correct"]
    bootstrap = NestedBootstrap(
        [f"{dataset}\n{question}" for dataset, question, _ in outcomes.questions],
        n_resamples=is_correct.shape[1],
        seed=seed,
    )
    facts = {
        "n_questions": bootstrap.n_questions,
        "resamples": is_correct.shape[1],
        "seed": seed,
        "margin": margin,
    }
    unmeasured = _unmeasured(outcomes)
    measured = [i for i in range(len(outcomes.points)) if i not in unmeasured]
    found: dict[int, _Numbers] = {}
    if measured:
        columns = _Measured.of(outcomes, is_correct, measured, bootstrap)
        found = dict(zip(measured, _describe(columns, margin, baseline), strict=True))
    tested = [i for i in measured if outcomes.points[i].policy.name not in {CONSENSUS, baseline}]
    p = [*(found[i].counts["p_mcnemar"] for i in tested), *(1.0 for _ in outcomes.dropped)]
    for i, adjusted in zip(tested, holm(np.array(p)).tolist(), strict=False):
        found[i].counts["p_mcnemar_holm"] = adjusted
    return [
        Row(
            point.policy.name,
            {**point.axes, "judge": point.judge, "n_traces": point.n_traces},
            facts,
            *found.get(i, _Numbers({}, {})),
            *unmeasured.get(i, ("ok", None)),
        )
        for i, point in enumerate(outcomes.points)
    ]


class _Numbers(NamedTuple):
    """The numbers of one point, see `Row`."""

    metrics: dict[str, Estimate | None]
    counts: dict[str, float | None]


def _unmeasured(outcomes: Outcomes) -> dict[int, tuple[str, str]]:
    """Status and reason of the points without a full measurement."""
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
    """The k of cons@k, ``None`` for other policies."""
    if not isinstance(point.policy, Consensus):
        return None
    return point.n_traces if point.policy.k is None else point.policy.k


@dataclass(frozen=True)
class _Measured:
    """The points that were measured; draws have the shape ``(1 + D, P)``, see `statistics`.

    Attributes:
        policies: Name of each one's policy.
        reference: Position of each one's cons@N, shape ``(P,)``.
        consensus: Positions of cons@k, by k, shape ``(K,)``.
        sizes: Their k.
        accuracy: Draws; so are ``tokens``, ``generator_flops`` and ``judge_flops``.
        pass_any: See `sweep_rows`.
        columns: By name, what has no interval: a value for each point.
        deviation: Standard deviation of a question's difference to cons@N, shape ``(P,)``.
        n_questions: Distinct questions.
    """

    policies: list[str]
    reference: IntArray
    consensus: IntArray
    sizes: list[int]
    accuracy: FloatArray
    tokens: FloatArray
    generator_flops: FloatArray
    judge_flops: FloatArray
    pass_any: list[Estimate | None]
    columns: dict[str, list[float | None]]
    deviation: FloatArray
    n_questions: int

    @classmethod
    def of(
        cls,
        outcomes: Outcomes,
        is_correct: NDArray[Any],
        measured: list[int],
        bootstrap: NestedBootstrap,
    ) -> _Measured:
        """Reduce field by field, so that one is in memory at a time."""

        def chosen(values: NDArray[Any]) -> NDArray[Any]:
            return values if values.shape[2] == len(measured) else values.take(measured, axis=2)

        def means(values: NDArray[Any]) -> list[float | None]:
            return _numbers(values.mean(axis=(0, 1), dtype=np.float64))

        points = [outcomes.points[i] for i in measured]
        place = {k: p for p, point in enumerate(points) if (k := _size(point)) is not None}
        reference = np.array([place[p.n_traces] for p in points])
        is_correct = chosen(is_correct)
        first = is_correct[:, 0]
        full = first[:, reference]
        p_mcnemar = mcnemar_p((full & ~first).sum(axis=0), (first & ~full).sum(axis=0))
        by_question = bootstrap.by_question(is_correct)
        differences = by_question - by_question[:, reference]
        columns: dict[str, list[float | None]] = {
            "p_mcnemar": p_mcnemar.tolist(),
        }
        tokens = np.zeros(is_correct.shape, dtype=np.int64)
        for name in ("tokens_finished", "tokens_pruned", "tokens_forced"):
            values = chosen(outcomes[name])
            tokens += values
            columns[name] = means(values)
        columns["tokens"] = means(tokens)
        for name in _OTHER_COSTS:
            columns[name] = means(chosen(outcomes[name]))
        columns["tokens_prompt"] = [float(outcomes.tokens_prompt.mean())] * len(points)
        flops = {
            n: bootstrap.draws(chosen(outcomes[n])) for n in ("generator_flops", "judge_flops")
        }
        columns |= {name: _numbers(draws[0]) for name, draws in flops.items()}
        return cls(
            policies=[p.policy.name for p in points],
            reference=reference,
            consensus=np.array([place[k] for k in sorted(place)]),
            sizes=sorted(place),
            accuracy=bootstrap.draws(is_correct),
            tokens=bootstrap.draws(tokens),
            **flops,
            pass_any=bootstrap.mean(chosen(outcomes["any_correct"])).cells(),
            columns=columns,
            deviation=_deviation(differences),
            n_questions=bootstrap.n_questions,
        )

    def curve(self, at: IntArray) -> Curve:
        """The curve through the points at positions ``at``."""
        return Curve(self.tokens[:, at], self.accuracy[:, at])


def _describe(measured: _Measured, margin: float, baseline: str) -> Iterator[_Numbers]:
    """The numbers of each point, in order."""
    curves = {ABOVE_CONSENSUS: measured.curve(measured.consensus)}
    is_baseline = np.array([name == baseline for name in measured.policies])
    if baseline != CONSENSUS and is_baseline.any():
        own = np.flatnonzero(is_baseline)
        best = frontier(measured.tokens[0, own], measured.accuracy[0, own])
        curves[ABOVE_BASELINE] = measured.curve(own[best])
    spent = measured.tokens[0, measured.consensus]
    full = measured.reference
    with np.errstate(divide="ignore", invalid="ignore"):  # sizes that are not known
        each = measured.tokens[0, full] / measured.generator_flops[0, full]
    columns = measured.columns | {
        "tokens_net": _numbers(measured.tokens[0] + measured.judge_flops[0] * each),
        "matched_k": np.interp(measured.tokens[0], spent, measured.sizes).tolist(),
        "n_questions_needed": questions_needed(measured.deviation, margin).tolist(),
    }
    for start in range(0, len(measured.policies), CHUNK):
        chunk = slice(start, start + CHUNK)
        metrics, is_safe = _compare(measured, chunk, curves, margin)
        metrics["pass_any"] = measured.pass_any[chunk]
        if baseline != CONSENSUS:
            metrics.setdefault(ABOVE_BASELINE, [None] * len(is_safe))
        for i, values in enumerate(zip(*metrics.values(), strict=True)):
            counts: dict[str, float | None] = {n: c[start + i] for n, c in columns.items()}
            counts |= {"is_non_inferior": is_safe[i], "p_mcnemar_holm": None}
            if measured.reference[start + i] == start + i:
                counts |= dict.fromkeys(("p_mcnemar", "is_non_inferior", "n_questions_needed"))
            yield _Numbers(dict(zip(metrics, values, strict=True)), counts)


def _compare(
    measured: _Measured, chunk: slice, curves: Mapping[str, Curve], margin: float
) -> tuple[dict[str, list[Estimate | None]], list[bool]]:
    """Accuracy and the comparisons by name, and non-inferiority, of some of the points."""
    full = measured.reference[chunk]
    accuracy, tokens = measured.accuracy[:, chunk], measured.tokens[:, chunk]
    flops, judge_flops = measured.generator_flops[:, chunk], measured.judge_flops[:, chunk]
    full_tokens, full_flops = measured.tokens[:, full], measured.generator_flops[:, full]
    consensus = curves[ABOVE_CONSENSUS]
    above_full = accuracy - measured.accuracy[:, full]
    needed = consensus.tokens_to_reach(accuracy)
    with np.errstate(divide="ignore", invalid="ignore"):  # sizes or prices that are not known
        judge_tokens = judge_flops * (full_tokens / full_flops)
        draws = {
            "accuracy": accuracy,
            "accuracy_vs_cons_n": above_full,
            **{name: accuracy - curve.accuracy_at(tokens) for name, curve in curves.items()},
            ABOVE_CONSENSUS_NET: accuracy - consensus.accuracy_at(tokens + judge_tokens),
            "tokens_vs_matched_accuracy": tokens / needed,
            "token_saving": 1 - tokens / full_tokens,
            "net_saving": (full_flops - flops - judge_flops) / full_flops,
        }
        draws["tokens_vs_matched_accuracy"][0, np.isinf(needed[0])] = np.nan
        cells = {name: estimate(d).cells() for name, d in draws.items()}
    shown = is_non_inferior(above_full, measured.n_questions, margin)
    return cells, shown.tolist()


def _deviation(differences: FloatArray) -> FloatArray:
    """Standard deviation over the rows; 0 of a single one."""
    spread = differences - differences.mean(axis=0)
    return np.asarray(np.sqrt((spread**2).sum(axis=0) / max(len(spread) - 1, 1)))


def _numbers(values: FloatArray) -> list[float | None]:
    return [None if np.isnan(v) else v for v in values.tolist()]


def too_few_questions(rows: Sequence[Row], margin: float = 0.03) -> str | None:
    """Return a warning if the questions cannot show that a policy stays within ``margin``.

    They are too few where a policy exactly as good as cons@N would not be shown to lose less than
    ``margin`` with 80 % power, see `statistics.questions_needed`, by the widest lower arm of the
    intervals of ``accuracy_vs_cons_n``. An arm is at least 3 / n: what n questions without a
    difference leave open (the rule of three).
    """
    arms: list[float] = []
    for row in rows:
        difference = row.metrics.get("accuracy_vs_cons_n")
        if difference is not None and row.policy != CONSENSUS:
            arms.append(difference.value - difference.low)
    if not arms:
        return None
    n = int(rows[0].facts["n_questions"])
    deviation = max(arms) / ndtri((1 + LEVEL) / 2) * np.sqrt(n)
    needed = int(questions_needed(deviation, margin))
    if n >= needed:
        return None
    return (
        f"{n} questions are too few to show an accuracy within {100 * margin:.0f} points of "
        f"cons@N: the interval reaches {100 * max(*arms, 3 / n):.1f} points down; "
        f"about {needed} would be needed."
    )
