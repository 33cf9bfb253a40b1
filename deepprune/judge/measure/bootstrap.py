"""Judge metrics with a bootstrap over questions.

P: pairs, Q: questions, R: draws. A draw is a vector of counts: how often each question was drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from deepprune.core.protocols import FloatArray
from deepprune.core.seeding import generator
from deepprune.core.statistics import N_DRAWS, Estimate
from deepprune.core.types import TracePair
from deepprune.judge.measure.metrics import NAN, weighted_metrics
from deepprune.judge.measure.scored_pairs import UNFINISHED, PairScores


class QuestionDraws:
    """Questions drawn with replacement.

    Pairs of a question are not independent, so whole questions are drawn. Everything that is
    measured with one instance is measured on the same draws: subtract the measures of two judges
    for a paired difference. Names of questions may be repeated.
    """

    def __init__(self, questions: Iterable[str], seed: int = 0, n: int = N_DRAWS) -> None:
        self._names = np.unique(np.array(list(questions), dtype=str))
        n_questions = len(self._names)
        self._counts: FloatArray = np.ones((1 + n, n_questions))  # the first row is the data
        if n_questions:
            rng = generator(seed, "bootstrap")
            chances = np.full(n_questions, 1 / n_questions)
            self._counts[1:] = rng.multinomial(n_questions, chances, size=n)

    def measure(self, pairs: PairScores) -> dict[str, FloatArray]:
        """Compute every judge metric, on all pairs and (``_unfinished``) on unfinished traces.

        Questions of the pairs must be among those of the draws. Maps a metric to its value, then
        its draws, shape ``(1 + R,)``; ``nan`` where undefined.
        """
        measures: dict[str, FloatArray] = {}
        for suffix, part in (("", pairs), (UNFINISHED, pairs.unfinished())):
            question = np.searchsorted(self._names, part.question)
            found = weighted_metrics(part.scores, part.labels, part.group, question, self._counts)
            measures |= {name + suffix: values for name, values in found.items()}
        return measures

    def estimates(self, pairs: PairScores) -> dict[str, Estimate]:
        """Compute every judge metric with its interval over questions."""
        return {name: estimate(measure) for name, measure in self.measure(pairs).items()}


def estimates_by_part(
    pairs: Sequence[TracePair], scored: PairScores, draws: QuestionDraws
) -> dict[str, dict[str, Estimate]]:
    """Measure ``all`` pairs and, where there are several, each ``model=`` and ``dataset=``."""
    parts = {"all": draws.estimates(scored)}
    datasets = np.array([pair.first.trace.question.dataset for pair in pairs], dtype=str)
    for kind, of_pair in (("model", scored.model), ("dataset", datasets)):
        names = sorted(set(of_pair.tolist()))
        for name in names if len(names) > 1 else ():
            parts[f"{kind}={name}"] = draws.estimates(scored.select(of_pair == name))
    return parts


def estimate(measure: FloatArray) -> Estimate:
    """Return a measure's value with the 2.5 and 97.5 percentiles of its defined draws."""
    defined = measure[1:][~np.isnan(measure[1:])]
    if np.isnan(measure[0]) or not defined.size:
        return Estimate(float(measure[0]), NAN, NAN)
    return Estimate(float(measure[0]), *np.quantile(defined, (0.025, 0.975)).tolist())
