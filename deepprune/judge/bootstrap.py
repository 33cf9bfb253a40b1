"""Intervals of judge metrics by a bootstrap over questions, vectorised over the draws.

P: pairs, C: clusters (questions), R: draws. A draw is a vector of counts: how often each question
was drawn. Whatever does not depend on the draw is summed per question once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from deepprune.judge.metrics import (
    ECE_BINS,
    NAN,
    check_groups,
    distinct_ends,
    ece_bin,
    within_parts,
)
from deepprune.protocols import FloatArray, IntArray
from deepprune.seeding import generator

_BLOCK = 1 << 20  # weights of pairs held at once, 8 MB


class Interval(NamedTuple):
    """A 95 % interval; ``nan`` where the metric is undefined in every draw."""

    low: float
    high: float


def bootstrap_questions(
    metric: str,
    scores: ArrayLike,
    labels: ArrayLike,
    questions: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Interval:
    """A 95 % percentile interval of a metric, over resampled questions; see ``bootstrap_draws``."""
    return interval(
        bootstrap_draws(metric, scores, labels, questions, clusters=clusters, n=n, seed=seed)
    )


def interval(draws: FloatArray) -> Interval:
    """The 2.5 and 97.5 percentiles of the draws that are defined."""
    draws = draws[~np.isnan(draws)]
    return (
        Interval(*np.quantile(draws, (0.025, 0.975)).tolist()) if draws.size else Interval(NAN, NAN)
    )


def bootstrap_draws(
    metric: str,
    scores: ArrayLike,
    labels: ArrayLike,
    questions: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> FloatArray:
    """A metric on ``n`` resamples of the questions, shape ``(n,)``; ``nan`` where undefined.

    Pairs of a question are not independent, so whole questions are drawn with replacement. The same
    seed and questions draw the same resamples whatever the scores: subtract the draws of two judges
    for a paired difference.

    Args:
        metric: ``auroc``, ``auroc_within``, ``tnr_at_fnr_0.2``, ``average_precision_different``,
            ``ece`` or ``brier``.
        scores: In [0, 1], shape ``(P,)``.
        labels: 1 or 0, shape ``(P,)``.
        questions: The question of each pair, shape ``(P,)``; see ``metrics.auroc_within``.
        clusters: What is resampled, where that is coarser: the question itself, if ``questions``
            tells models apart.
        n: Number of draws.
        seed: Decides the draws.

    Raises:
        ValueError: If the metric is unknown, or shapes differ.
    """
    if metric not in _METRICS:
        raise ValueError(f"metric must be one of {sorted(_METRICS)}, got {metric!r}.")
    s, y, question, n_questions = check_groups(scores, labels, questions)
    _, _, cluster, n_clusters = check_groups(
        scores, labels, questions if clusters is None else clusters
    )
    if not n_clusters:
        return np.full(n, NAN)
    rng = generator(seed, "bootstrap")
    counts_RC = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n)
    pairs = _Pairs(s, y, question, n_questions, cluster, n_clusters)
    return _METRICS[metric](pairs, counts_RC.astype(np.float64))


@dataclass(frozen=True, slots=True)
class _Pairs:
    scores: FloatArray
    labels: FloatArray
    question: IntArray
    n_questions: int
    cluster: IntArray
    n_clusters: int

    def per_cluster(self, values: FloatArray) -> FloatArray:
        """Sums over the pairs of each cluster, shape ``(C,)``."""
        sums: FloatArray = np.bincount(
            self.cluster, weights=values, minlength=self.n_clusters
        ).astype(np.float64)
        return sums


def _auroc(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    """``c' W c / (c'n_same c'n_different)``; ``W[i, j]``: wins of i's "same" over j's others."""
    order = np.argsort(pairs.scores, kind="stable")
    labels, cluster = pairs.labels[order], pairs.cluster[order]
    ends = distinct_ends(pairs.scores[order])
    tie_of = np.repeat(np.arange(ends.size), np.diff(ends, prepend=-1))
    wins_CC = np.empty((pairs.n_clusters, pairs.n_clusters))
    for i in range(pairs.n_clusters):
        different = (1 - labels) * (cluster == i)
        up_to = np.cumsum(different)[ends]  # at or below each distinct score
        beaten = (up_to + np.concatenate(([0.0], up_to[:-1]))) / 2
        wins_CC[:, i] = np.bincount(cluster, labels * beaten[tie_of], pairs.n_clusters)
    wins = np.einsum("ri,ij,rj->r", counts_RC, wins_CC, counts_RC, optimize=True)
    n_same = counts_RC @ pairs.per_cluster(pairs.labels)
    n_different = counts_RC @ pairs.per_cluster(1 - pairs.labels)
    return _ratio(wins, n_same * n_different)


def _auroc_within(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    value, weight = within_parts(pairs.scores, pairs.labels, pairs.question, pairs.n_questions)
    cluster_of = np.zeros(pairs.n_questions, dtype=np.int64)
    cluster_of[pairs.question] = pairs.cluster
    weights = np.bincount(cluster_of, weight, pairs.n_clusters)
    values = np.bincount(cluster_of, value * weight, pairs.n_clusters)
    return _ratio(counts_RC @ values, counts_RC @ weights)


def _tnr(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    order = np.argsort(pairs.scores, kind="stable")
    labels, cluster = pairs.labels[order], pairs.cluster[order]
    starts = np.concatenate(([0], distinct_ends(pairs.scores[order])[:-1] + 1))

    def value(weights_RP: FloatArray) -> FloatArray:
        same, different = weights_RP * labels, weights_RP * (1 - labels)
        n_same, n_different = same.sum(1), different.sum(1)
        # Below a threshold lie the pairs before the first one of its score.
        lost = (np.cumsum(same, axis=1) - same)[:, starts]
        caught = (np.cumsum(different, axis=1) - different)[:, starts]
        is_allowed = lost <= 0.2 * n_same[:, None] + 1e-9
        best = np.where(is_allowed, caught, 0).max(1)
        return np.where(n_same > 0, _ratio(best, n_different), NAN)

    return _in_blocks(value, cluster, counts_RC)


def _average_precision(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    order = np.argsort(pairs.scores, kind="stable")
    labels, cluster = pairs.labels[order], pairs.cluster[order]
    ends = distinct_ends(pairs.scores[order])

    def value(weights_RP: FloatArray) -> FloatArray:
        found = np.cumsum(weights_RP * (1 - labels), axis=1)[:, ends]
        precision = np.nan_to_num(_ratio(found, np.cumsum(weights_RP, axis=1)[:, ends]))
        return _ratio((np.diff(found, axis=1, prepend=0) * precision).sum(1), found[:, -1])

    return _in_blocks(value, cluster, counts_RC)


def _ece(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    cell = pairs.cluster * ECE_BINS + ece_bin(pairs.scores)
    gap = np.bincount(cell, pairs.labels - pairs.scores, pairs.n_clusters * ECE_BINS)
    gap_RB = counts_RC @ gap.reshape(pairs.n_clusters, ECE_BINS)
    return _ratio(np.abs(gap_RB).sum(1), counts_RC @ pairs.per_cluster(np.ones_like(pairs.scores)))


def _brier(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    squares = pairs.per_cluster((pairs.scores - pairs.labels) ** 2)
    return _ratio(counts_RC @ squares, counts_RC @ pairs.per_cluster(np.ones_like(pairs.scores)))


_METRICS: dict[str, Callable[[_Pairs, FloatArray], FloatArray]] = {
    "auroc": _auroc,
    "auroc_within": _auroc_within,
    "tnr_at_fnr_0.2": _tnr,
    "average_precision_different": _average_precision,
    "ece": _ece,
    "brier": _brier,
}


def _in_blocks(
    value: Callable[[FloatArray], FloatArray], cluster: IntArray, counts_RC: FloatArray
) -> FloatArray:
    """``value`` of the pair weights of all draws, ``(R, P)``, a few draws at a time."""
    rows = max(1, _BLOCK // cluster.size)
    blocks = [value(counts_RC[i : i + rows][:, cluster]) for i in range(0, len(counts_RC), rows)]
    return np.concatenate(blocks)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    ratio: FloatArray = np.full(numerator.shape, NAN)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
