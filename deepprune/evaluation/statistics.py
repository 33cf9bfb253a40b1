"""Intervals by a bootstrap over questions: the traces of one question are not independent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deepprune.protocols import FloatArray
from deepprune.seeding import generator

N_DRAWS = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A value with its 95 % percentile interval over questions."""

    value: float
    low: float
    high: float


class QuestionBootstrap:
    """Draws questions with replacement, the same draws for every statistic: differences are paired.

    Args:
        questions: Name of the question of each row; rows of one question (several models) are
            drawn together, shape ``(R,)``.
        seed: Seed of the draws.
    """

    def __init__(self, questions: list[str], seed: int) -> None:
        names, inverse = np.unique(questions, return_inverse=True)
        rng = generator(seed, "bootstrap")
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=N_DRAWS)
        self.n_questions = len(names)
        self._weights: FloatArray = counts[:, inverse].astype(np.float64)

    def mean(self, values: FloatArray) -> Estimate:
        """Mean of ``values``, shape ``(R,)``."""
        return self.ratio(values, np.ones_like(values))

    def ratio(self, numerator: FloatArray, denominator: FloatArray) -> Estimate:
        """Ratio of sums, ``sum(numerator) / sum(denominator)``, each of shape ``(R,)``."""
        draws = (self._weights @ numerator) / (self._weights @ denominator)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Estimate(float(numerator.sum() / denominator.sum()), float(low), float(high))
