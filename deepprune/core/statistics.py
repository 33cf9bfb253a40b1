"""Intervals by a bootstrap over questions, and the tests of a sweep, for all its points at once.

Questions are drawn, because the traces of one question are not independent.

Shapes: Q questions (one row for each model), R orders of the traces (resamples), P points, D draws
of the bootstrap, K points of a curve. *Draws* are arrays of shape ``(1 + D, P)`` whose first row
is the data itself: a ratio or a place on a curve that is computed row by row thus has its value
and its bootstrap distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

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


def estimate(draws: FloatArray) -> list[Estimate | None]:
    """Return the first row as values, with the 2.5 and 97.5 % quantiles of the other rows.

    ``None`` for a point that is not a number.
    """
    tail = (1 - LEVEL) / 2
    rows = np.stack([draws[0], *quantiles(draws, tail, 1 - tail)], axis=1)
    return [Estimate(*r) if all(map(math.isfinite, r)) else None for r in rows.tolist()]


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


class NestedBootstrap:
    """Draws questions with replacement, and within each drawn question its resamples.

    The same draws serve every statistic: differences between points are paired. Resamples of one
    question are orders of one pool of traces. 1 / R of their spread is part of the spread between
    questions; drawing them again counts that part twice, so that intervals are slightly too wide
    for a small R, never too narrow (Davison & Hinkley 1997, section 3.8).

    Sums are exact: draws are counts, and floats are rounded to a grid (relative 1e-11 or finer) on
    which float64 adds without error. Equal points thus differ by exactly 0, and a result does not
    depend on the order in which a BLAS adds.

    Args:
        questions: Name of the question of each row; rows of one name (several models) are drawn
            together, shape ``(Q,)``.
        n_resamples: R.
        seed: Seed of the draws.
        n_draws: D.
    """

    def __init__(
        self, questions: Sequence[str], n_resamples: int, seed: int, n_draws: int = N_DRAWS
    ) -> None:
        names, self._name = np.unique(questions, return_inverse=True)
        self.n_questions = len(names)
        rng = generator(seed, "bootstrap")
        drawn = rng.multinomial(self.n_questions, np.full(len(names), 1 / len(names)), size=n_draws)
        n_columns = len(questions) * n_resamples
        self._counts = np.ones((1 + n_draws, n_columns), dtype=np.float32)
        orders = np.full(n_resamples, 1 / n_resamples)
        for rows in _blocks(n_draws, n_columns):
            counts = rng.multinomial(drawn[rows][:, self._name] * n_resamples, orders)
            self._counts[1:][rows] = counts.reshape(-1, n_columns)
        self._total: FloatArray = self._counts.sum(axis=1, dtype=np.float64)

    def draws(self, values: NDArray[Any]) -> FloatArray:
        """Return means of ``values``, ``(Q, R, P)`` -> ``(1 + D, P)``; the first row is the data.

        Bool, integer or float; sums of integers have to stay below 2^53.
        """
        flat = values.reshape(-1, values.shape[-1])
        sums = np.empty((len(self._counts), flat.shape[1]))
        # float32 counts booleans exactly up to 2^24, at half the time.
        is_count = values.dtype == np.bool_ and self._total.max() < 2**24
        for columns in _blocks(flat.shape[1], len(flat)):
            if is_count:
                sums[:, columns] = self._counts @ flat[:, columns].astype(np.float32)
                continue
            block = self._exact(flat[:, columns])
            for rows in _blocks(len(self._counts), len(flat)):
                sums[rows, columns] = self._counts[rows].astype(np.float64) @ block
        sums /= self._total[:, None]
        return sums

    def mean(self, values: NDArray[Any]) -> list[Estimate | None]:
        """Estimate means of ``values``, shape ``(Q, R, P)``."""
        return estimate(self.draws(values))

    def ratio(self, numerator: NDArray[Any], denominator: NDArray[Any]) -> list[Estimate | None]:
        """Estimate ratios of sums, of a numerator and a denominator of shape ``(Q, R, P)``."""
        return estimate(self.draws(numerator) / self.draws(denominator))

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
        """Round each column to a grid, a power of two, on which sums are exact."""
        block: FloatArray = values.astype(np.float64)
        if np.issubdtype(values.dtype, np.floating):
            peak = np.abs(block).max(axis=0) * self._total.max()
            exponent = np.frexp(np.where(np.isfinite(peak), peak, 0))[1] - 53
            block = np.ldexp(np.rint(np.ldexp(block, -exponent)), exponent)
        return block


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


def is_non_inferior(differences: FloatArray, n_questions: int, margin: float) -> BoolArray:
    """Return whether a loss of ``margin`` or more is ruled out, one-sided at 5 %, shape ``(P,)``.

    The 5 % quantile of the paired differences lies above ``-margin``, and n is at least 3 / margin:
    a bootstrap of n questions without a difference has no width, but losses of up to 3 / n remain
    possible (the rule of three).

    Args:
        differences: Draws of the accuracy less that of the reference.
        n_questions: n.
        margin: As a share of the questions: 0.01 is one point.
    """
    (low,) = quantiles(differences, 1 - LEVEL)
    return np.asarray((low > -margin) & (3 / n_questions <= margin * (1 + 1e-9)))


def questions_needed(deviation: FloatArray | float, margin: float) -> IntArray:
    """Return how many questions show non-inferiority at ``margin`` if there is no difference.

    ``((z_.95 + z_.80) * deviation / margin)^2``: with 80 % power, one-sided at 5 %; at least
    3 / margin (the rule of three, see `is_non_inferior`).

    Args:
        deviation: Standard deviation of a question's difference in accuracy, of any shape.
        margin: As a share of the questions.
    """
    z = ndtri(LEVEL) + ndtri(POWER)
    needed = np.ceil((z * np.asarray(deviation) / margin) ** 2).astype(np.int64)
    return np.asarray(np.maximum(needed, math.ceil(3 / margin * (1 - 1e-9))))
