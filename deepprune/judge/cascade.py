"""The cascade: a cheap judge for every pair, an expensive one where the cheap one is unsure.

P: pairs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit, logit

from deepprune.core.errors import InputError
from deepprune.core.protocols import BoolArray, FloatArray
from deepprune.core.types import Prefix, TracePair
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.judge.score_cache import pair_key

_CACHED_SCORES = 65_536
_ROUNDING = 1e-9  # of log-odds that were scores in between
_LEAST = 1e-6  # scores are clipped to [_LEAST, 1 - _LEAST], so that their log-odds are finite


class CascadeJudge(Judge):
    """Scores all pairs with the cheap judge, and those in its uncertain band with both.

    The score in the band is the mean of both log-odds (a logarithmic opinion pool). On the
    unfinished pairs of 80 MATH-500 questions, with number overlap before boosted trees (since
    removed), the mean had a within-question AUROC of .621 with half of the pairs sent and .627 with
    all; the expensive judge's own log-odds .604 and .614.

    A pair in the band costs what both judges charge, and so do its two prefixes.

    Args:
        cheap: Scores every pair.
        expensive: Scores the pairs in the band.
        low: Start of the band, a score of the cheap judge.
        high: End of the band, >= ``low``.
        share: Without both, the band holds this share of the run's pairs, in (0, 1], those nearest
            the cheap judge's median log-odds; ``prepare`` places it.

    Raises:
        InputError: If the band is not given, or out of range.
    """

    def __init__(
        self,
        cheap: Judge,
        expensive: Judge,
        *,
        low: float | None = None,
        high: float | None = None,
        share: float | None = None,
    ) -> None:
        if (low is None) != (high is None) or (low is None and share is None):
            raise InputError(
                "a cascade needs judge.low and judge.high, or judge.share, got "
                f"low={low}, high={high}, share={share}."
            )
        if low is not None and high is not None and not 0 <= low <= high <= 1:
            raise InputError(
                f"a cascade needs 0 <= judge.low <= judge.high <= 1, got {low:g} and {high:g}."
            )
        self.cheap, self.expensive = cheap, expensive
        self.low, self.high = low, high
        self.share = share if low is None else None
        self.is_model = cheap.is_model or expensive.is_model
        self.is_symmetric = cheap.is_symmetric and expensive.is_symmetric
        self.needs = cheap.needs | expensive.needs
        self.reads_peers = cheap.reads_peers or expensive.reads_peers
        self._known: dict[bytes, float] = {}

    def prepare(self, sample: Callable[[], Sequence[TracePair]] | None) -> dict[str, float]:
        """Place the band by the cheap judge's scores of the sample; no labels are read.

        Raises:
            InputError: If a share is given and there is no sample.
        """
        if self.share is None:
            return {}
        if sample is None:
            raise InputError(
                f"judge.share={self.share:g} needs recorded traces to place the band: give "
                "judge.low and judge.high, as deepprune evaluate judge=cascade has recorded them."
            )
        odds = _log_odds(self._scores(self.cheap, sample()))
        median = np.median(odds)
        reach = np.quantile(np.abs(odds - median), self.share)
        self.low, self.high = float(expit(median - reach)), float(expit(median + reach))
        return {"low": self.low, "high": self.high, "share": self.share}

    @property
    def provenance(self) -> JudgeProvenance:
        parts = [judge.provenance for judge in (self.cheap, self.expensive)]
        prints = [part.fingerprint for part in parts]
        fingerprint = None
        if None not in prints:
            state = json.dumps([prints, self.low, self.high])
            fingerprint = hashlib.blake2b(state.encode(), digest_size=16).hexdigest()
        seen = parts[0].seen_questions | parts[1].seen_questions
        return JudgeProvenance("cascade", fingerprint, seen)

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        odds, inside = _log_odds(self._scores(self.cheap, pairs)), self.sends(pairs)
        if sent := list(itertools.compress(pairs, inside)):
            odds[inside] = (odds[inside] + _log_odds(self._scores(self.expensive, sent))) / 2
        scores: FloatArray = expit(odds)
        return scores

    def sends(self, pairs: Sequence[TracePair]) -> BoolArray:
        """Return which pairs lie in the band, its ends included, shape ``(len(pairs),)``."""
        assert self.low is not None, "prepare places the band of a share"
        assert self.high is not None
        odds = _log_odds(self._scores(self.cheap, pairs))
        first, last = _log_odds(np.array([self.low, self.high]))
        inside: BoolArray = (odds >= first - _ROUNDING) & (odds <= last + _ROUNDING)
        inside &= self.low < self.high
        return inside

    def pair_prices(self, pairs: Sequence[TracePair]) -> Prices:
        prices = Prices(*(part.copy() for part in self.cheap.pair_prices(pairs)))
        inside = self.sends(pairs)
        if sent := list(itertools.compress(pairs, inside)):
            extra = self.expensive.pair_prices(sent)
            prices.tokens[inside] += extra.tokens
            prices.flops[inside] += extra.flops
        return prices

    def prefix_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        return self.cheap.prefix_prices(prefixes)

    def second_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        return self.expensive.prefix_prices(prefixes)

    def _scores(self, judge: Judge, pairs: Sequence[TracePair]) -> FloatArray:
        """Score with one of the judges; remember scores that follow from the prefixes alone."""
        fingerprint = judge.provenance.fingerprint
        if fingerprint is None or judge.reads_peers:
            return judge.score(pairs)
        keys = [pair_key(fingerprint, pair) for pair in pairs]
        todo = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        if len(self._known) + len(todo) > _CACHED_SCORES:
            self._known.clear()
            todo = dict(zip(keys, pairs, strict=True))
        if todo:
            found = judge.score(list(todo.values()))
            self._known.update(zip(todo, found.tolist(), strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.float64)


def _log_odds(scores: FloatArray) -> FloatArray:
    return np.asarray(logit(np.clip(scores, _LEAST, 1 - _LEAST)))
