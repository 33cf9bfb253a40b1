"""Judge metrics with a bootstrap over questions, vectorised over the draws.

P: pairs, Q: questions, R: draws, S: distinct scores in rising order. A draw is a vector of counts:
how often each question was drawn. Sums that do not depend on the draw are taken once.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.seeding import generator
from deepprune.core.statistics import N_DRAWS, Estimate
from deepprune.judge.measure.metrics import (
    ECE_BINS,
    FNR,
    NAN,
    check_groups,
    ece_bin,
    judge_metrics,
    within_parts,
)
from deepprune.judge.measure.scored_pairs import UNFINISHED, PairScores

_BLOCK = 1 << 20  # array elements held at once, 8 MB


class QuestionDraws:
    """Questions drawn with replacement.

    Pairs of a question are not independent, so whole questions are drawn. Everything that is
    measured with one instance is measured on the same draws: subtract the measures of two judges
    for a paired difference.

    Args:
        questions: Names of questions, also repeated.
        seed: Decides the draws.
        n: R.
    """

    def __init__(self, questions: Iterable[str], seed: int, n: int = N_DRAWS) -> None:
        self._names = np.unique(np.array(list(questions), dtype=str))
        self.counts_RQ: FloatArray = np.zeros((n, 0))
        if n_questions := len(self._names):
            rng = generator(seed, "bootstrap")
            counts = rng.multinomial(n_questions, np.full(n_questions, 1 / n_questions), size=n)
            self.counts_RQ = counts.astype(np.float64)

    def measure(self, pairs: PairScores) -> dict[str, FloatArray]:
        """Every judge metric, on all pairs and (``_unfinished``) on those of unfinished traces.

        Args:
            pairs: Scored pairs; their questions are among those of the draws.

        Returns:
            Metric -> its value, then its draws, shape ``(1 + R,)``; ``nan`` where undefined. What
            `metrics.judge_metrics` counts is constant.
        """
        measures = {}
        for suffix, part in (("", pairs), (UNFINISHED, pairs.unfinished())):
            drawn = self._draws(part)
            for name, value in judge_metrics(part.scores, part.labels, part.group).items():
                draws = drawn.get(name, np.full(len(self.counts_RQ), value))
                measures[name + suffix] = np.concatenate([[value], draws])
        return measures

    def _draws(self, pairs: PairScores) -> dict[str, FloatArray]:
        if not pairs.scores.size:
            return {}
        scores, labels, group, n_groups = check_groups(pairs.scores, pairs.labels, pairs.group)
        question = np.searchsorted(self._names, pairs.question)
        counts_RQ = self.counts_RQ
        n_questions = counts_RQ.shape[1]

        distinct, rank = np.unique(scores, return_inverse=True)
        place = question, rank, (n_questions, distinct.size)
        same_QS, different_QS = _sums(labels, *place), _sums(1 - labels, *place)
        n_same, n_different = counts_RQ @ same_QS.sum(1), counts_RQ @ different_QS.sum(1)

        values, weights = within_parts(scores, labels, group, n_groups)
        of_group = np.zeros(n_groups, dtype=np.int64)
        of_group[group] = question
        weights_Q = np.bincount(of_group, weights, n_questions)
        values_Q = np.bincount(of_group, values * weights, n_questions)

        gaps_QB = _sums(labels - scores, question, ece_bin(scores), (n_questions, ECE_BINS))
        gaps_RB = counts_RQ @ gaps_QB
        squares_Q = np.bincount(question, (scores - labels) ** 2, n_questions)

        wins = _wins(same_QS, different_QS, counts_RQ)
        caught, area = _over_scores(same_QS, different_QS, counts_RQ)
        return {
            "auroc": _ratio(wins, n_same * n_different),
            "auroc_within": _ratio(counts_RQ @ values_Q, counts_RQ @ weights_Q),
            "tnr_at_fnr_20": np.where(n_same > 0, _ratio(caught, n_different), NAN),
            "average_precision_different": _ratio(area, n_different),
            "ece": _ratio(np.abs(gaps_RB).sum(1), n_same + n_different),
            "brier": _ratio(counts_RQ @ squares_Q, n_same + n_different),
        }


def estimate(measure: FloatArray) -> Estimate:
    """A measure's value with the 2.5 and 97.5 percentiles of those draws that are defined."""
    defined = measure[1:][~np.isnan(measure[1:])]
    if np.isnan(measure[0]) or not defined.size:
        return Estimate(float(measure[0]), NAN, NAN)
    return Estimate(float(measure[0]), *np.quantile(defined, (0.025, 0.975)).tolist())


def _sums(
    values: FloatArray, row: IntArray, column: IntArray, shape: tuple[int, int]
) -> FloatArray:
    """Sum the values of each row and column."""
    sums = np.bincount(row * shape[1] + column, values, shape[0] * shape[1])
    return sums.astype(np.float64).reshape(shape)


def _wins(same_QS: FloatArray, different_QS: FloatArray, counts_RQ: FloatArray) -> FloatArray:
    """Pairs of pairs in which "same" outscores "different", in each draw.

    ``c' W c``, where ``W[i, j]`` counts the wins of question i's "same" over j's "different".
    """
    below_QS = np.cumsum(different_QS, axis=1) - different_QS / 2  # a tie is half a win
    wins_QQ = same_QS @ below_QS.T
    wins: FloatArray = ((counts_RQ @ wins_QQ) * counts_RQ).sum(1)
    return wins


def _over_scores(
    same_QS: FloatArray, different_QS: FloatArray, counts_RQ: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Caught "different" pairs at the threshold of `FNR`, and the area under precision-recall.

    A threshold just above the s-th score loses the "same" pairs up to it and catches the
    "different" ones; the highest threshold that loses at most `FNR` counts.
    """
    step_QS = different_QS
    same_QS, different_QS = np.cumsum(same_QS, axis=1), np.cumsum(different_QS, axis=1)
    n_draws = len(counts_RQ)
    allowed = FNR * (counts_RQ @ same_QS[:, -1]) + 1e-9
    n_allowed, area = np.zeros(n_draws, dtype=np.int64), np.zeros(n_draws)
    width = max(1, _BLOCK // n_draws)
    for start in range(0, same_QS.shape[1], width):
        columns = slice(start, start + width)
        lost_RS, found_RS = counts_RQ @ same_QS[:, columns], counts_RQ @ different_QS[:, columns]
        n_allowed += (lost_RS <= allowed[:, None]).sum(1)
        precision_RS = found_RS / np.maximum(lost_RS + found_RS, 1)  # 0 / 0 weighs nothing
        area += np.einsum("rs,rs->r", counts_RQ @ step_QS[:, columns], precision_RS)
    last: IntArray = np.maximum(n_allowed - 1, 0)
    caught = np.einsum("rq,qr->r", counts_RQ, different_QS[:, last])
    return np.where(n_allowed > 0, caught, 0), area


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    ratio: FloatArray = np.full(numerator.shape, NAN)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
