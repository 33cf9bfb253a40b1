"""Pair scores of one question: each pair of prefixes is scored once, each run pays its own bill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepprune.judge.base import Judge, JudgeCost
from deepprune.judge.score_cache import ScoreCache
from deepprune.protocols import FloatArray, IntArray, Session
from deepprune.types import Prefix, TracePair


def cached_scores(judge: Judge, cache: ScoreCache | None, pairs: Sequence[TracePair]) -> FloatArray:
    """Scores in [0, 1] of pairs, shape ``(len(pairs),)``; only those not in ``cache`` are computed.

    Raises:
        ValueError: If the judge gives anything else.
    """
    fingerprint = judge.provenance.fingerprint
    if cache is None or fingerprint is None:
        return _checked(judge.score(pairs), judge)
    scores = cache.get_many(fingerprint, pairs)
    missing = np.flatnonzero(np.isnan(scores)).tolist()
    if missing:
        todo = [pairs[i] for i in missing]
        scores[missing] = _checked(judge.score(todo), judge)
        cache.put_many(fingerprint, todo, scores[missing])
    return scores


class QuestionScores:
    """All scores of a question, shared by every policy, threshold and order of traces.

    Args:
        judge: Scores what is missing.
        cache: Scores on disk, kept between runs.
    """

    def __init__(self, judge: Judge, cache: ScoreCache | None = None) -> None:
        self._judge = judge
        self._cache = cache
        self._prefixes: list[Prefix] = []
        self._ids: dict[tuple[str, int, int], int] = {}
        self._scores: FloatArray = np.full((64, 64), np.nan)

    def run(self, session: Session) -> RunScores:
        """The scores as one policy run on ``session`` sees them."""
        return RunScores(self, session)

    def prefix_id(self, prefix: Prefix) -> int:
        """A number for a prefix, the same for the same first tokens of the same trace."""
        key = (prefix.trace.model, prefix.trace.sample_id, prefix.n_tokens)
        if key not in self._ids:
            self._ids[key] = len(self._prefixes)
            self._prefixes.append(prefix)
            if len(self._prefixes) > len(self._scores):
                self._scores = np.pad(self._scores, (0, len(self._scores)), constant_values=np.nan)
        return self._ids[key]

    def lookup(self, ids: IntArray) -> FloatArray:
        """Scores of pairs of prefix numbers, shape ``(P, 2)`` -> ``(P,)``."""
        if self._judge.is_symmetric:
            ids = np.sort(ids, axis=1)
        scores = self._scores[ids[:, 0], ids[:, 1]]
        missing = np.isnan(scores)
        if missing.any():
            todo = np.unique(ids[missing], axis=0)
            found = cached_scores(self._judge, self._cache, self.pairs(todo))
            self._scores[todo[:, 0], todo[:, 1]] = found
            scores = self._scores[ids[:, 0], ids[:, 1]]
        return scores

    def pairs(self, ids: IntArray) -> list[TracePair]:
        """The pairs behind prefix numbers."""
        return [TracePair(self._prefixes[i], self._prefixes[j]) for i, j in ids.tolist()]

    def cost(self, ids: IntArray) -> JudgeCost:
        """What scoring these distinct pairs costs from scratch."""
        if self._judge.is_symmetric:
            ids = np.sort(ids, axis=1)
        return self._judge.cost(self.pairs(np.unique(ids, axis=0)))


class RunScores:
    """``ScorePairs`` for one policy run; remembers what was asked, for the bill."""

    def __init__(self, scores: QuestionScores, session: Session) -> None:
        self._scores = scores
        self._session = session
        self._asked: list[IntArray] = []
        self._seen_tokens = -1
        self._ids: IntArray = np.zeros(0, dtype=np.int64)

    def __call__(self, pairs: IntArray) -> FloatArray:
        """Scores of pairs of trace indices on what they have generated so far."""
        if self._session.tokens_generated != self._seen_tokens:  # prefixes have grown since
            self._seen_tokens = self._session.tokens_generated
            self._ids = np.full(0, -1, dtype=np.int64)
        if (missing := int(pairs.max()) + 1 - len(self._ids)) > 0:
            self._ids = np.append(self._ids, np.full(missing, -1, dtype=np.int64))
        ids = self._ids[pairs]
        if (ids < 0).any():
            for trace in np.unique(pairs[ids < 0]).tolist():
                self._ids[trace] = self._scores.prefix_id(self._session.prefix(trace))
            ids = self._ids[pairs]
        self._asked.append(ids)
        return self._scores.lookup(ids)

    @property
    def cost(self) -> JudgeCost:
        """The judge's bill of this run; a pair that was asked twice is paid once."""
        return self._scores.cost(np.concatenate(self._asked)) if self._asked else JudgeCost()


def _checked(scores: FloatArray, judge: Judge) -> FloatArray:
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN fails as well
        bad = scores[~((scores >= 0) & (scores <= 1))][0]
        raise ValueError(f"judge {judge.provenance.name!r} gave {bad}; a score lies in [0, 1].")
    return scores
