"""Intervals by a bootstrap over questions, and the tests of a sweep, for all its points at once.

Questions are drawn, because the traces of one question are not independent.

Shapes: Q questions (one row for each model), R orders of the traces (resamples), P points, D draws
of the bootstrap, K points of a curve. *Draws* are arrays of shape ``(1 + D, P)`` whose first row
is the data itself: a ratio or a place on a curve that is computed row by row thus has its value
and its bootstrap distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri, stdtrit

from deepprune.core.protocols import BoolArray, FloatArray, IntArray
from deepprune.core.seeding import generator

N_DRAWS = 2000
LEVEL = 0.95
POWER = 0.8
BLOCK = 8_000_000
"""Array elements worked on at once: 64 MB in float64."""


class Estimate(NamedTuple):
    """A value with its 95 % percentile interval over questions."""

    value: float
    low: float
    high: float


def estimates(record: Mapping[str, Sequence[float | None]]) -> dict[str, Estimate]:
    """Read estimates from JSON, where an end that is not a number is null."""
    return {n: Estimate(*(math.nan if v is None else v for v in e)) for n, e in record.items()}


def quantiles(draws: FloatArray, *levels: float) -> list[FloatArray]:
    """Return quantiles of ``draws`` without their first row, each of shape ``(P,)``.

    The same as `numpy.quantile` in a third of its time; NaN if a draw is.
    """
    ordered = np.sort(draws[1:], axis=0)  # NaN comes last
    results = []
    for level in levels:
        place = level * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        between = low + (high - low) * (place - math.floor(place))
        results.append(np.where(np.isnan(ordered[-1]), np.nan, between))
    return results


class Bootstrap:
    """Draws questions with replacement; the orders of a question's traces are averaged before.

    The estimand is the mean over questions *and* orders: the part of an order's luck that the mean
    over R orders has left is part of the spread between questions. Drawing orders as well, as for a
    single run, would count it twice, and made intervals of paired differences 1.4 to 1.6 times too
    wide. The same draws serve every statistic: differences between points are paired.

    Sums are exact: draws are counts, and floats are rounded to a grid (relative 1e-11 or finer) on
    which float64 adds without error. Equal points thus differ by exactly 0, and a result does not
    depend on the order in which a BLAS adds.

    Args:
        questions: Name of the question of each row; rows of one name (several models) are drawn
            together, shape ``(Q,)``.
        seed: Seed of the draws.
        n_draws: D.
    """

    def __init__(self, questions: Sequence[str], seed: int, n_draws: int = N_DRAWS) -> None:
        names, self._name = np.unique(questions, return_inverse=True)
        n = self.n_questions = len(names)
        drawn = generator(seed, "bootstrap").multinomial(n, np.full(n, 1 / n), size=n_draws)
        self._counts: FloatArray = np.ones((1 + n_draws, len(questions)))
        self._counts[1:] = drawn[:, self._name]
        self._total = self._counts.sum(axis=1)
        # Percentile intervals are too narrow by sqrt((n - 1) / n) and by z instead of Student's t;
        # wider quantiles make up for it (Hesterberg 2015, https://arxiv.org/abs/1411.5279, 5.3).
        self._tail = (1 - LEVEL) / 2
        if n > 1:
            self._tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, self._tail)))

    def draws(self, values: NDArray[Any]) -> FloatArray:
        """Return means of ``values``, ``(Q, R, P)`` -> ``(1 + D, P)``; the first row is the data.

        Bool, integer or float; sums of integers have to stay below 2^53.
        """
        n_rows, n_orders, n_points = values.shape
        sums = np.empty((len(self._counts), n_points))
        for columns in _blocks(n_points, n_rows * n_orders):
            block = self._exact(values[..., columns]).sum(axis=1)
            sums[:, columns] = self._counts @ block
        sums /= self._total[:, None] * n_orders
        return sums

    def estimate(self, draws: FloatArray) -> list[Estimate | None]:
        """Return the first row as values, with their 95 % intervals from the other rows.

        ``None`` for a point that is not a number.
        """
        ends = quantiles(draws, self._tail, 1 - self._tail)
        rows = np.stack([draws[0], *ends], axis=1)
        return [Estimate(*r) if all(map(math.isfinite, r)) else None for r in rows.tolist()]

    def mean(self, values: NDArray[Any]) -> list[Estimate | None]:
        """Estimate means of ``values``, shape ``(Q, R, P)``."""
        return self.estimate(self.draws(values))

    def ratio(self, numerator: NDArray[Any], denominator: NDArray[Any]) -> list[Estimate | None]:
        """Estimate ratios of sums, of a numerator and a denominator of shape ``(Q, R, P)``."""
        return self.estimate(self.draws(numerator) / self.draws(denominator))

    def by_question(self, values: NDArray[Any]) -> FloatArray:
        """Return each question's part of the mean, times Q: ``(Q, R, P)`` -> ``(n_questions, P)``.

        For a question with one row its mean over resamples; several rows are added, relative to the
        mean number of rows.
        """
        means: FloatArray = values.mean(axis=1, dtype=np.float64)
        sums = np.zeros((self.n_questions, means.shape[1]))
        np.add.at(sums, self._name, means)
        return sums * (self.n_questions / len(means))

    def _exact(self, values: NDArray[Any]) -> FloatArray:
        """Round each point's values, ``(Q, R, P)``, to a grid on which their sums are exact."""
        block: FloatArray = values.astype(np.float64)
        if np.issubdtype(values.dtype, np.floating):
            peak = np.abs(block).max(axis=(0, 1)) * self._total.max() * values.shape[1]
            exponent = np.frexp(np.where(np.isfinite(peak), peak, 0))[1] - 53
            block = np.ldexp(np.rint(np.ldexp(block, -exponent)), exponent)
        return block


def order_error(is_correct: BoolArray) -> FloatArray:
    """Return the standard error of the accuracy over orders, ``(Q, R, P)`` -> ``(P,)``.

    What other orders of the same traces would change; NaN for a single order.
    """
    n_questions, n_orders, _ = is_correct.shape
    share = is_correct.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = share * (1 - share) / (n_orders - 1)  # of the mean over orders
        return np.asarray(np.sqrt(variance.sum(axis=0)) / n_questions)


def _blocks(n: int, width: int) -> list[slice]:
    """Split ``n`` rows of ``width`` elements into slices of at most `BLOCK` elements."""
    step = max(1, BLOCK // width)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


@dataclass(frozen=True)
class Curve:
    """Accuracy against tokens of one policy at several settings, as draws of shape ``(1 + D, K)``.

    Both coordinates are random: each draw has its own curve, ordered by its own tokens, and a
    point is placed on it by its tokens, or its accuracy, in the same draw.
    """

    tokens: FloatArray
    accuracy: FloatArray

    def __post_init__(self) -> None:
        order = np.argsort(self.tokens, axis=1, kind="stable")
        for name in ("tokens", "accuracy"):
            ordered = np.take_along_axis(getattr(self, name), order, axis=1)
            object.__setattr__(self, name, ordered)

    def accuracy_at(self, tokens: FloatArray) -> FloatArray:
        """Return the accuracy at ``tokens``, linear between neighbours, shape ``(1 + D, P)``.

        The curve is flat beyond its ends: a point with more tokens than cons@N is compared with
        cons@N, one with fewer than the cheapest point with that point.
        """
        return np.stack(
            [np.interp(*row) for row in zip(tokens, self.tokens, self.accuracy, strict=True)]
        )

    def tokens_to_reach(self, accuracy: FloatArray) -> FloatArray:
        """Return the fewest tokens at which the curve reaches ``accuracy``, ``(1 + D, P)``.

        The curve is made monotone by its running maximum, and is linear between neighbours.
        Infinite if it never reaches ``accuracy``, and at least the tokens of its cheapest point.
        """
        reached = np.maximum.accumulate(self.accuracy, axis=1)
        needed = np.empty_like(accuracy)
        for row, (wanted, height, spent) in enumerate(
            zip(accuracy, reached, self.tokens, strict=True)
        ):
            after = np.searchsorted(height, wanted)
            high = np.minimum(after, len(height) - 1)
            low = np.maximum(high - 1, 0)
            rise = height[high] - height[low]
            share = np.divide(wanted - height[low], rise, np.ones_like(rise), where=rise > 0)
            tokens = spent[low] + share * (spent[high] - spent[low])
            tokens[after == 0] = spent[0]
            tokens[after == len(height)] = np.inf
            needed[row] = tokens
        return needed


def frontier(tokens: FloatArray, accuracy: FloatArray) -> IntArray:
    """Return the indices of the points that none beats in both, by rising tokens."""
    order = np.lexsort((-accuracy, tokens))
    best = np.maximum.accumulate(accuracy[order])
    return order[np.r_[True, best[1:] > best[:-1]]]


def hull(tokens: FloatArray, accuracy: FloatArray) -> IntArray:
    """Return the vertices of the concave hull up to the highest accuracy, by rising tokens.

    A point between two vertices is what a coin reaches that decides for each question which of the
    two policies runs.
    """
    kept: list[int] = []
    for i in frontier(tokens, accuracy).tolist():
        while len(kept) > 1:
            (t0, t1), (a0, a1) = tokens[kept[-2:]], accuracy[kept[-2:]]
            if (a1 - a0) * (tokens[i] - t1) > (accuracy[i] - a1) * (t1 - t0):
                break
            kept.pop()
        kept.append(i)
    return np.array(kept, dtype=np.int64)


def mcnemar_p(only_first: IntArray, only_second: IntArray) -> FloatArray:
    """Two-sided p-values of McNemar's exact test, shape ``(P,)``.

    Args:
        only_first: Questions that the first side alone got right, shape ``(P,)``.
        only_second: Questions that the second side alone got right, shape ``(P,)``.

    Example:
        b = 1, c = 6: 2 * (C(7, 0) + C(7, 1)) / 2^7 = .125.
    """
    fewer, both = np.minimum(only_first, only_second), only_first + only_second
    return np.asarray(np.minimum(1.0, 2 * bdtr(fewer.astype(np.float64), both, 0.5)))


def holm(p: FloatArray) -> FloatArray:
    """Adjust p-values by Holm's step-down procedure for all of ``p``, shape ``(P,)``."""
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(1.0, adjusted)


def non_inferiority_p(
    differences: FloatArray, margin: float, *, largest: float = 1.0, seed: int = 0
) -> FloatArray:
    """Return p-values of "the mean difference is ``-margin`` or less", shape ``(P,)``.

    Gaffke's test of the mean of a bounded variable (Gaffke 2005; compared with others by Phan et
    al. 2021, https://arxiv.org/abs/2106.03163). One more question is added, which loses all it can,
    and the ``n + 1`` are weighted by a flat Dirichlet distribution: p is the chance of a mean of
    ``-margin`` or less. With whole losses and no gains it is the exact binomial test (Clopper and
    Pearson), and n questions without a difference give ``(1 - margin)^n``, the rule of three. The
    5 % quantile of a bootstrap errs in 9 to 11 % of the cases where losses sit in few questions.

    The weight of the added question is integrated out: with M the weighted mean of the n questions,
    p is the mean of ``((largest - margin) / (largest + M))^n``, or of 1 where that is larger.

    Args:
        differences: Accuracy of each question less that of the reference, shape ``(n, P)``.
        margin: As a share of the questions: 0.01 is one point.
        largest: Largest loss of a question.
        seed: Seed of the weights.
    """
    n = len(differences)
    weights = generator(seed, "weights").standard_exponential((N_DRAWS, n))
    means = weights / weights.sum(axis=1, keepdims=True) @ differences
    ratio = (largest - margin) / np.maximum(largest + means, largest - margin)
    return np.asarray((ratio**n).mean(axis=0))


def questions_needed(deviation: FloatArray | float, margin: float) -> IntArray:
    """Return how many questions show non-inferiority at ``margin`` if there is no difference.

    With 80 % power, one-sided at 5 %, by a normal distribution of the mean under the weights of
    `non_inferiority_p`: the n at which ``(z_.95 + z_.80) * sqrt(deviation^2 / n + 1 / n^2)`` is
    ``margin - 1 / n``. Without any difference it is the n of the rule of three, about 3 / margin.

    Args:
        deviation: Standard deviation of a question's difference in accuracy, of any shape.
        margin: As a share of the questions.
    """
    z2, variance = (ndtri(LEVEL) + ndtri(POWER)) ** 2, np.square(deviation)
    half = margin + z2 * variance / 2
    needed = (half + np.sqrt(half**2 + (z2 - 1) * margin**2)) / margin**2
    least = math.log(1 - LEVEL) / math.log1p(-margin)
    return np.asarray(np.ceil(np.where(variance > 0, needed, least)).astype(np.int64))
