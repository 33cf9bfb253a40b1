"""Pair scores of one question: each pair is scored once, and each run has its own bill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from deepprune.core.protocols import FloatArray, IntArray, Need, Session
from deepprune.core.types import Prefix, TracePair, among_peers
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache, cached_scores

_Name: TypeAlias = tuple[str, int, int]
"""Model, sample and number of tokens of a prefix."""


class QuestionScores:
    """All scores of a question, shared by every policy, threshold and order of traces.

    The numbers of prefixes are rows of the table; a column is a prefix's place among those that it
    can be compared with: its peers for a judge that reads them, else all. Scores among equal sets
    of peers are thus computed once, and the table stays narrow.

    Args:
        judge: Scores what is missing.
        cache: Scores on disk, kept between runs.
    """

    def __init__(self, judge: Judge, cache: ScoreCache | None = None) -> None:
        self.judge = judge
        self._cache = cache
        self._prefixes: list[Prefix] = []
        self._ids: defaultdict[frozenset[_Name], dict[_Name, int]] = defaultdict(dict)  # by peers
        self._place: IntArray = np.zeros(128, dtype=np.int64)
        self._scores: FloatArray = np.full((128, 128), np.nan)
        self._prices: FloatArray = np.zeros((128, 128, 3))  # tokens, FLOPs, 1 if sent

    def score_all(self, ids: IntArray) -> None:
        """Score all pairs of these prefixes in one call, unless the judge is a neural network."""
        if self.judge.is_model or len(ids) < 2:
            return
        if not np.isnan(self._scores[ids[0], self._place[ids[-1]]]):
            return
        first, second = np.triu_indices(len(ids), 1)
        self._compute(np.column_stack((ids[first], ids[second])))
        if not self.judge.is_symmetric:
            self._compute(np.column_stack((ids[second], ids[first])))

    def _compute(self, ids: IntArray) -> None:
        """Score distinct pairs of prefix numbers."""
        pairs = [TracePair(self._prefixes[i], self._prefixes[j]) for i, j in ids.tolist()]
        found = cached_scores(self.judge, self._cache, pairs)
        prices = np.column_stack((*self.judge.pair_prices(pairs), self.judge.sends(pairs)))
        for a, b in (ids.T, ids.T[::-1])[: 1 + self.judge.is_symmetric]:
            self._scores[a, self._place[b]], self._prices[a, self._place[b]] = found, prices

    def prefix_ids(self, prefixes: Sequence[Prefix]) -> IntArray:
        """Return the numbers of prefixes that exist at the same time, shape ``(n,)``.

        The same tokens of the same trace have the same number, among equal peers where the judge
        reads them.
        """
        names = [_name(prefix) for prefix in prefixes]
        ids = self._ids[frozenset(names if self.judge.reads_peers else ())]
        new = [prefix for prefix in prefixes if _name(prefix) not in ids]
        if self.judge.reads_peers:
            new = among_peers(sorted(new, key=_name))
        for prefix in new:
            self._add(prefix, place=len(ids))
            ids[_name(prefix)] = len(self._prefixes) - 1
        return np.array([ids[name] for name in names], dtype=np.int64)

    def _add(self, prefix: Prefix, place: int) -> None:
        """Add a row to the table."""
        self._prefixes.append(prefix)
        rows, columns = self._scores.shape
        more = rows * (len(self._prefixes) > rows), columns * (place >= columns)
        if any(more):
            self._place = np.pad(self._place, (0, more[0]))
            self._scores = np.pad(self._scores, [(0, n) for n in more], constant_values=np.nan)
            self._prices = np.pad(self._prices, [*((0, n) for n in more), (0, 0)])
        self._place[len(self._prefixes) - 1] = place

    def lookup(self, ids: IntArray) -> FloatArray:
        """Return the scores of pairs of prefix numbers, shape ``(P, 2)`` -> ``(P,)``."""
        scores = self._scores[ids[:, 0], self._place[ids[:, 1]]]
        missing = np.isnan(scores)
        if missing.any():
            self._compute(np.unique(self._one_way(ids[missing]), axis=0))
            scores = self._scores[ids[:, 0], self._place[ids[:, 1]]]
        return scores

    def prices(self, ids: IntArray) -> FloatArray:
        """Return prices of scored pairs, see `clustering.PricePairs`, ``(P, 2)`` -> ``(P, 3)``."""
        return self._prices[ids[:, 0], self._place[ids[:, 1]]]

    def prefix_prices(self, ids: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return judge tokens and FLOPs of prefixes, each read once, ``(n,)`` -> ``(n, 2)``.

        First those of the judge, then those of its second judge, see `Judge.sends`.
        """
        prefixes, judge = [self._prefixes[i] for i in ids.tolist()], self.judge
        of_judges = judge.prefix_prices(prefixes), judge.second_prices(prefixes)
        first, second = map(np.column_stack, of_judges)
        return first, second

    def bill(self, ids: IntArray) -> FloatArray:
        """Return distinct pairs, judge tokens and FLOPs of scoring from scratch, shape ``(3,)``.

        A prefix that is the same among other peers counts once.
        """
        ids = np.unique(self._one_way(ids), axis=0)
        prices = self.prices(ids)
        paid = prices[:, :2].sum(0)
        for judge, read in enumerate((ids, ids[prices[:, 2] > 0])):
            once = {_name(self._prefixes[i]): i for i in np.unique(read).tolist()}
            numbers = np.array(list(once.values()), dtype=np.int64)
            paid = paid + self.prefix_prices(numbers)[judge].sum(0)
        return np.array([len(ids), *paid])

    def _one_way(self, ids: IntArray) -> IntArray:
        """Put the smaller number of each pair first if the judge is symmetric."""
        return np.sort(ids, axis=1) if self.judge.is_symmetric else ids


def _name(prefix: Prefix) -> _Name:
    return prefix.trace.model, prefix.trace.sample_id, prefix.n_tokens


class RunEvidence:
    """``Evidence`` for one policy run; records which scores were requested, for the bill.

    Args:
        scores: The judge's scores of the question; ``None`` for a policy that asks no judge.
        session: The run.
        mean_length: Expected tokens of a whole trace; ``None`` where no policy reads it.
    """

    def __init__(
        self, scores: QuestionScores | None, session: Session, mean_length: float | None = None
    ) -> None:
        self._mean_length = mean_length
        self._scores = scores
        self._session = session
        self._asked: list[IntArray] = []
        self._seen_tokens = -1
        self._ids: dict[int, int] = {}  # number of each trace's prefix at these tokens

    def score(self, pairs: IntArray) -> FloatArray:
        """Return the scores of pairs of trace indices on their current prefixes."""
        table, session = self._scores, self._session
        assert table is not None, "a policy that needs no judge asks for scores"
        if (tokens := session.usage.tokens) != self._seen_tokens:  # prefixes have grown since
            self._seen_tokens, self._ids = tokens, {}
        traces, places = np.unique(pairs, return_inverse=True)
        if new := [trace for trace in traces.tolist() if trace not in self._ids]:
            if table.judge.reads_peers:  # peers are all started traces
                new = list(range(session.n_started))
            found = table.prefix_ids([session.prefix(trace) for trace in new])
            self._ids.update(zip(new, found.tolist(), strict=True))
            if Need.FORCED_ANSWERS in table.judge.needs:
                session.read_forced_answers(new)
        ids = np.array([self._ids[trace] for trace in traces.tolist()])[places].reshape(-1, 2)
        scores = table.lookup(ids)
        self._asked.append(ids)  # after the lookup: failed calls are not billed
        return scores

    def confidence(self, trace: int) -> FloatArray:
        return self._session.confidence(trace)

    @property
    def mean_length(self) -> float:
        assert self._mean_length is not None, "the mean trace length was not given"
        return self._mean_length

    @property
    def bill(self) -> FloatArray:
        """Calls, tokens and FLOPs of the judge; a pair that was requested twice counts once."""
        if self._scores is None or not self._asked:
            return np.zeros(3)
        return self._scores.bill(np.concatenate(self._asked))
