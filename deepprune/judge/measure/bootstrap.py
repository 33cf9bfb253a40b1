"""Intervals of judge metrics by a bootstrap over questions, vectorised over the draws.

P: pairs, C: clusters (questions), R: draws, S: distinct scores, from the lowest. A draw is a vector
of counts: how often each question was drawn. Whatever does not depend on the draw is summed per
question once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.seeding import generator
from deepprune.judge.measure.metrics import (
    ECE_BINS,
    NAN,
    check_groups,
    ece_bin,
    within_parts,
)

_BLOCK = 1 << 20  # values held at once, 8 MB


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
        metric: ``auroc``, ``auroc_within``, ``tnr_at_fnr_20``, ``average_precision_different``,
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
    pairs = _Pairs(s, y, question, n_questions, cluster, n_clusters)
    return _METRICS[metric](pairs, resamples(n_clusters, n, seed))


def resamples(n_clusters: int, n: int, seed: int) -> FloatArray:
    """How often each cluster is in each of ``n`` resamples, shape ``(n, n_clusters)``."""
    rng = generator(seed, "bootstrap")
    counts_RC = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n)
    return counts_RC.astype(np.float64)


def metric_of_resamples(
    metric: str,
    scores: ArrayLike,
    labels: ArrayLike,
    questions: ArrayLike,
    cluster: IntArray,
    counts_RC: FloatArray,
) -> FloatArray:
    """A metric on given resamples, shape ``(R,)``: what several runs are to be drawn alike on.

    Without pairs it is ``nan``.

    Args:
        metric: See ``bootstrap_draws``.
        scores: Shape ``(P,)``.
        labels: Shape ``(P,)``.
        questions: Shape ``(P,)``.
        cluster: Column of each pair's cluster in ``counts_RC``, shape ``(P,)``; a column may have
            no pairs.
        counts_RC: See ``resamples``.
    """
    s, y, question, n_questions = check_groups(scores, labels, questions)
    if not n_questions:
        return np.full(len(counts_RC), NAN)
    pairs = _Pairs(s, y, question, n_questions, cluster, counts_RC.shape[1])
    return _METRICS[metric](pairs, counts_RC)


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

    def up_to_each_score(self, values: FloatArray) -> FloatArray:
        """Sums over the pairs of each cluster at or below each distinct score, shape ``(C, S)``."""
        distinct, score = np.unique(self.scores, return_inverse=True)
        cell = self.cluster * distinct.size + score
        sums = np.bincount(cell, weights=values, minlength=self.n_clusters * distinct.size)
        up_to: FloatArray = np.cumsum(sums.reshape(self.n_clusters, distinct.size), axis=1)
        return up_to


def _auroc(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    """``c' W c / (c'n_same c'n_different)``; ``W[i, j]``: wins of i's "same" over j's others."""
    same_CS = np.diff(pairs.up_to_each_score(pairs.labels), axis=1, prepend=0)
    different_CS = pairs.up_to_each_score(1 - pairs.labels)
    below_CS = different_CS - np.diff(different_CS, axis=1, prepend=0) / 2  # a tie is half a win
    wins_CC = same_CS @ below_CS.T
    wins = ((counts_RC @ wins_CC) * counts_RC).sum(1)
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
    same_CS = pairs.up_to_each_score(pairs.labels)
    different_CS = pairs.up_to_each_score(1 - pairs.labels)
    n_same, n_different = counts_RC @ same_CS[:, -1], counts_RC @ different_CS[:, -1]
    # A threshold just above the s-th score loses what lies up to it; as many as may be lost.
    n_allowed = np.zeros(len(counts_RC), dtype=np.int64)
    for columns in _blocks(same_CS.shape[1], len(counts_RC)):
        lost_RS = counts_RC @ same_CS[:, columns]
        n_allowed += (lost_RS <= 0.2 * n_same[:, None] + 1e-9).sum(1)
    caught = np.einsum("rc,cr->r", counts_RC, different_CS[:, np.maximum(n_allowed - 1, 0)])
    rate = _ratio(np.where(n_allowed > 0, caught, 0), n_different)
    return np.where(n_same > 0, rate, NAN)


def _average_precision(pairs: _Pairs, counts_RC: FloatArray) -> FloatArray:
    found_CS = pairs.up_to_each_score(1 - pairs.labels)
    step_CS = np.diff(found_CS, axis=1, prepend=0)
    all_CS = pairs.up_to_each_score(np.ones_like(pairs.labels))
    area = np.zeros(len(counts_RC))
    for columns in _blocks(all_CS.shape[1], len(counts_RC)):
        precision_RS = counts_RC @ found_CS[:, columns]
        precision_RS /= np.maximum(counts_RC @ all_CS[:, columns], 1)  # 0 / 0 weighs nothing
        area += np.einsum("rs,rs->r", counts_RC @ step_CS[:, columns], precision_RS)
    return _ratio(area, counts_RC @ found_CS[:, -1])


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
    "tnr_at_fnr_20": _tnr,
    "average_precision_different": _average_precision,
    "ece": _ece,
    "brier": _brier,
}


def _blocks(n_columns: int, n_rows: int) -> Iterator[slice]:
    """Column slices of a matrix of so many rows, a few at a time."""
    width = max(1, _BLOCK // n_rows)
    return (slice(i, i + width) for i in range(0, n_columns, width))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    ratio: FloatArray = np.full(numerator.shape, NAN)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
