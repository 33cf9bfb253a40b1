"""Metrics of judge scores: pooled over all pairs, and within questions.

P: pairs. Scores in [0, 1], labels (1 for "same answer", else 0) and questions have the shape
``(P,)``; where a group is one model's traces of a question, ``questions`` names the group.
Undefined is ``nan``, never 0 or 0.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

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
"""Every metric; each lies in [0, 1]."""


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a "same" pair outscores a "different" one.

    A tie counts half (Mann-Whitney). ``nan`` where a class is missing.

    >>> auroc([0.9, 0.6, 0.6, 0.1], [1, 1, 0, 0])
    0.875
    """
    s, y = check_arrays(scores, labels)
    n_same = int(y.sum())
    n_different = y.size - n_same
    if not n_same or not n_different:
        return NAN
    rank_sum = float(rankdata(s)[y == 1].sum())
    return (rank_sum - n_same * (n_same + 1) / 2) / (n_same * n_different)


def auroc_within(scores: ArrayLike, labels: ArrayLike, questions: ArrayLike) -> float:
    """Within-question AUROC: per question, averaged with weights ``min(#same, #different)``.

    Questions with only one class have weight 0. Knowing the question's agreement rate alone, which
    pruning cannot use, does not raise this metric. ``nan`` where no question has both classes.
    """
    value, weight = within_parts(*check_groups(scores, labels, questions))
    return float(value @ weight / weight.sum()) if weight.sum() else NAN


def tnr_at_fnr(scores: ArrayLike, labels: ArrayLike, fnr: float = FNR) -> float:
    """True-negative rate at a threshold that loses at most ``fnr`` of the "same" pairs.

    A pair is called "same" at or above the threshold, and the threshold is the highest that stays
    within ``fnr``; thresholds lie at observed scores. The paper's TNR@0.2 has ``fnr=0.2``. ``nan``
    where a class is missing.

    Raises:
        ValueError: If ``fnr`` lies outside [0, 1].
    """
    if not 0 <= fnr <= 1:
        raise ValueError(f"fnr must lie in [0, 1], got {fnr}. Did you pass a percentage?")
    s, y = check_arrays(scores, labels)
    same, different = np.sort(s[y == 1]), s[y == 0]
    if not same.size or not different.size:
        return NAN
    n_lost = int(fnr * same.size + 1e-9)
    if n_lost == same.size:
        return 1.0
    return float(np.mean(different < same[n_lost]))


def average_precision_different(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision at finding "different" pairs by their low scores; chance is their share.

    ``sum_n (R_n - R_{n-1}) P_n`` over the distinct scores, as in scikit-learn. ``nan`` where there
    are none.
    """
    s, y = check_arrays(scores, labels)
    if y.all():  # also where there are no pairs
        return NAN
    order = np.argsort(s, kind="stable")
    ends = np.flatnonzero(np.diff(s[order], append=np.inf))  # of each distinct score
    found = np.cumsum(1 - y[order])[ends]
    precision = found / (ends + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / found[-1])


def expected_calibration_error(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean ``|share of "same" - mean score|`` over 15 equal-width bins, weighed by their pairs.

    Guo et al. 2017, eq. 3 (https://arxiv.org/abs/1706.04599). ``nan`` without pairs.
    """
    s, y = check_arrays(scores, labels)
    if not s.size:
        return NAN
    gap = np.bincount(ece_bin(s), weights=y - s, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / s.size)


def brier(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared difference of score and label; ``nan`` without pairs."""
    s, y = check_arrays(scores, labels)
    return float(np.mean((s - y) ** 2)) if s.size else NAN


def judge_metrics(scores: ArrayLike, labels: ArrayLike, questions: ArrayLike) -> dict[str, float]:
    """Metrics and counts of some pairs, by name; ``nan`` where one is undefined."""
    s, y, _, n_questions = check_groups(scores, labels, questions)
    return {
        "auroc": auroc(s, y),
        "auroc_within": auroc_within(s, y, questions),
        "tnr_at_fnr_20": tnr_at_fnr(s, y),
        "average_precision_different": average_precision_different(s, y),
        "ece": expected_calibration_error(s, y),
        "brier": brier(s, y),
        "same_share": float(y.mean()) if s.size else NAN,
        "n_pairs": float(s.size),
        "n_questions": float(n_questions),
    }


def current_name(name: str) -> str:
    """Return a metric's name in reports of today, given its name in any report."""
    return name.replace("tnr_at_fnr_0.2", "tnr_at_fnr_20")  # renamed after version 0.1


def within_parts(
    scores: FloatArray, labels: FloatArray, index: IntArray, n_questions: int
) -> tuple[FloatArray, FloatArray]:
    """AUROC and weight of each question, shape ``(Q,)``; 0 and 0 where a class is missing."""
    value, weight = np.zeros(n_questions), np.zeros(n_questions)
    order = np.argsort(index, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
        n_same = labels[rows].sum()
        if 0 < n_same < rows.size:
            value[index[rows[0]]] = auroc(scores[rows], labels[rows])
            weight[index[rows[0]]] = min(n_same, rows.size - n_same)
    return value, weight


def check_arrays(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Scores and labels as float64 arrays; ``ValueError`` if their shapes are not ``(P,)``."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if s.shape != y.shape or s.ndim != 1:
        raise ValueError(f"scores and labels must have one shape (P,), got {s.shape}, {y.shape}.")
    return s, y


def check_groups(
    scores: ArrayLike, labels: ArrayLike, questions: ArrayLike
) -> tuple[FloatArray, FloatArray, IntArray, int]:
    """Scores, labels, questions numbered from 0, and how many questions there are."""
    s, y = check_arrays(scores, labels)
    names, index = np.unique(np.asarray(questions), return_inverse=True)
    if index.shape != s.shape:
        raise ValueError(f"questions must have shape {s.shape}, got {index.shape}.")
    return s, y, index.astype(np.int64), len(names)


def ece_bin(scores: FloatArray) -> IntArray:
    """The calibration bin of each score; 1.0 belongs to the last one."""
    return np.clip((scores * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)
