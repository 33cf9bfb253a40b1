"""Metrics of judge scores: pooled over all pairs, and within questions.

P: pairs, G: groups, one model's traces of one question, Q: questions, S: distinct scores in rising
order, R: rows of weights. Each metric is computed for R weightings of the questions at once, those
of a bootstrap; sums that do not depend on the weights are taken once. Undefined is ``nan``, never
0 or 0.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deepprune.core.protocols import FloatArray, IntArray

NAN = float("nan")
ECE_BINS = 15
FNR = 0.2
"""Share of the "same" pairs that ``tnr_at_fnr_20`` may lose."""

METRICS = (
    "auroc_within",
    "auroc",
    "tnr_at_fnr_20",
    "average_precision_different",
    "ece",
    "brier",
)
"""Every metric; each lies in [0, 1].

- ``auroc_within``: the AUROC of each group, averaged with weights ``min(#same, #different)``.
  Knowing a question's agreement rate alone, which pruning cannot use, does not raise it.
- ``auroc``: area under the ROC curve; a tie counts half. ``nan`` where a class is missing.
- ``tnr_at_fnr_20``: true-negative rate at the highest observed score as threshold that loses at
  most `FNR` of the "same" pairs, the paper's TNR@0.2; "same" is at or above the threshold.
- ``average_precision_different``: ``sum_n (R_n - R_{n-1}) P_n`` over the distinct scores, at
  finding "different" pairs by low scores, as in scikit-learn; chance is their share.
- ``ece``: mean ``|share of "same" - mean score|`` over 15 equal-width bins, weighed by their pairs
  (Guo et al. 2017, eq. 3, https://arxiv.org/abs/1706.04599). It is biased upwards, because the
  noise of a bin counts as an error of calibration, and has no interval: a bootstrap adds the noise
  once more, and its intervals hold the truth of a calibrated judge in no case.
- ``brier``: mean squared difference of score and label.
"""

_BLOCK = 1 << 20  # array elements held at once, 8 MB


def judge_metrics(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> dict[str, float]:
    """Compute the metrics and counts of some pairs, by name, see `weighted_metrics`."""
    question = np.zeros(np.shape(groups), dtype=np.int64)
    found = weighted_metrics(scores, labels, groups, question, np.ones((1, 1)))
    return {name: float(value[0]) for name, value in found.items()}


def weighted_metrics(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    question: IntArray,
    counts_RQ: FloatArray,
) -> dict[str, FloatArray]:
    """Compute the metrics of pairs whose questions count several times or not at all.

    ``same_share``, ``n_pairs``, ``n_questions`` (groups) and ``n_questions_both`` (those with both
    classes, which ``auroc_within`` reads) do not depend on the counts. ``ece`` is that of the first
    row alone.

    Args:
        scores: In [0, 1], shape ``(P,)``.
        labels: 1 for "same answer", else 0, shape ``(P,)``.
        groups: Name of the group of each pair, shape ``(P,)``.
        question: Column of ``counts_RQ`` of each pair, the same within a group, shape ``(P,)``.
        counts_RQ: How often each question counts, shape ``(R, Q)``.

    Returns:
        Metric -> values, shape ``(R,)``.

    Raises:
        ValueError: If shapes differ or a score is NaN.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if not s.shape == y.shape == group.shape == (s.size,):
        raise ValueError(
            "scores, labels and questions must have one shape (P,), got "
            f"{s.shape}, {y.shape}, {group.shape}."
        )
    if np.isnan(s).any():
        raise ValueError(f"{np.isnan(s).sum()} of {s.size} scores are not a number.")
    n_rows, n_questions = counts_RQ.shape
    values_G, weights_G = _within_groups(s, y, group, len(names))
    facts = {
        "same_share": y.mean() if s.size else NAN,
        "n_pairs": s.size,
        "n_questions": len(names),
        "n_questions_both": np.count_nonzero(weights_G),
    }
    constant = {name: np.full(n_rows, float(value)) for name, value in facts.items()}
    if not s.size:
        return {name: np.full(n_rows, NAN) for name in METRICS} | constant

    distinct, rank = np.unique(s, return_inverse=True)
    place = question, rank, (n_questions, distinct.size)
    same_QS, different_QS = _sums(y, *place), _sums(1 - y, *place)
    n_same, n_different = counts_RQ @ same_QS.sum(1), counts_RQ @ different_QS.sum(1)
    wins = _wins(same_QS, different_QS, counts_RQ)
    caught = _caught(same_QS, different_QS, counts_RQ)
    area = _area(same_QS, different_QS, counts_RQ)

    question_G = np.zeros(len(names), dtype=np.int64)
    question_G[group] = question
    weights_Q = np.bincount(question_G, weights_G, n_questions)
    values_Q = np.bincount(question_G, values_G * weights_G, n_questions)

    gaps_QB = _sums(y - s, question, ece_bin(s), (n_questions, ECE_BINS))
    ece = np.full(n_rows, NAN)
    ece[0] = np.abs(counts_RQ[0] @ gaps_QB).sum() / (n_same[0] + n_different[0])
    squares_Q = np.bincount(question, (s - y) ** 2, n_questions)
    return {
        "auroc": _ratio(wins, n_same * n_different),
        "auroc_within": _ratio(counts_RQ @ values_Q, counts_RQ @ weights_Q),
        "tnr_at_fnr_20": np.where(n_same > 0, _ratio(caught, n_different), NAN),
        "average_precision_different": _ratio(area, n_different),
        "ece": ece,
        "brier": _ratio(counts_RQ @ squares_Q, n_same + n_different),
    } | constant


def auroc(scores: FloatArray, labels: FloatArray) -> float:
    """Compute the chance that a "same" pair outscores a "different" one; a tie counts half.

    Mann-Whitney's statistic; ``labels`` need both classes.
    """
    same, different = scores[labels == 1], np.sort(scores[labels != 1])
    wins = sum(np.searchsorted(different, same, side).sum() for side in ("left", "right")) / 2
    return float(wins / (same.size * different.size))


def current_name(name: str) -> str:
    """Return a metric's name in reports of today, given its name in any report."""
    return name.replace("tnr_at_fnr_0.2", "tnr_at_fnr_20")  # renamed after version 0.1


def ece_bin(scores: FloatArray) -> IntArray:
    """Return the calibration bin of each score; 1.0 belongs to the last one."""
    return np.clip((scores * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)


def _within_groups(
    scores: FloatArray, labels: FloatArray, group: IntArray, n_groups: int
) -> tuple[FloatArray, FloatArray]:
    """Compute AUROC and weight of each group, shape ``(G,)``; 0 and 0 where a class is missing."""
    value, weight = np.zeros(n_groups), np.zeros(n_groups)
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        n_same = labels[rows].sum()
        if 0 < n_same < rows.size:
            value[group[rows[0]]] = auroc(scores[rows], labels[rows])
            weight[group[rows[0]]] = min(n_same, rows.size - n_same)
    return value, weight


def _sums(
    values: FloatArray, row: IntArray, column: IntArray, shape: tuple[int, int]
) -> FloatArray:
    """Sum the values of each row and column."""
    sums = np.bincount(row * shape[1] + column, values, shape[0] * shape[1])
    return sums.astype(np.float64).reshape(shape)


def _wins(same_QS: FloatArray, different_QS: FloatArray, counts_RQ: FloatArray) -> FloatArray:
    """Count the pairs of pairs in which "same" outscores "different", for each weighting.

    ``c' W c``, where ``W[i, j]`` counts the wins of question i's "same" over j's "different".
    """
    below_QS = np.cumsum(different_QS, axis=1) - different_QS / 2  # a tie is half a win
    wins_QQ = same_QS @ below_QS.T
    wins: FloatArray = ((counts_RQ @ wins_QQ) * counts_RQ).sum(1)
    return wins


def _caught(same_QS: FloatArray, different_QS: FloatArray, counts_RQ: FloatArray) -> FloatArray:
    """Return the "different" pairs caught at the highest threshold that loses at most `FNR`.

    A threshold just above the s-th score loses the "same" pairs up to it and catches the
    "different" ones. The loss rises with s, so each row finds its last allowed s by bisection.
    """
    lost_QS, found_QS = np.cumsum(same_QS, axis=1), np.cumsum(different_QS, axis=1)
    allowed = FNR * (counts_RQ @ lost_QS[:, -1]) + 1e-9
    n_allowed = np.zeros(len(counts_RQ), dtype=np.int64)
    n_scores = lost_QS.shape[1]
    for step in (1 << power for power in reversed(range(n_scores.bit_length()))):
        last = np.minimum(n_allowed + step, n_scores) - 1
        lost = np.einsum("rq,qr->r", counts_RQ, lost_QS[:, last])
        is_more = (n_allowed + step <= n_scores) & (lost <= allowed)
        n_allowed += step * is_more
    caught = np.einsum("rq,qr->r", counts_RQ, found_QS[:, np.maximum(n_allowed - 1, 0)])
    return np.where(n_allowed > 0, caught, 0)


def _area(same_QS: FloatArray, different_QS: FloatArray, counts_RQ: FloatArray) -> FloatArray:
    """Return the area under precision-recall of "different" pairs, times their number."""
    found_QS, all_QS = np.cumsum(different_QS, axis=1), np.cumsum(same_QS + different_QS, axis=1)
    steps = np.flatnonzero(different_QS.any(axis=0))  # recall grows at these scores alone
    area = np.zeros(len(counts_RQ))
    width = max(1, _BLOCK // len(counts_RQ))
    for start in range(0, steps.size, width):
        columns = steps[start : start + width]
        total_RS = counts_RQ @ all_QS[:, columns]
        precision_RS = counts_RQ @ found_QS[:, columns]
        precision_RS /= np.maximum(total_RS, 1, out=total_RS)  # 0 / 0 weighs nothing
        area += np.einsum("rs,rs->r", counts_RQ @ different_QS[:, columns], precision_RS)
    return area


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    ratio: FloatArray = np.full(numerator.shape, NAN)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
