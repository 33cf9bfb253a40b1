"""Pair scores of one question: each pair is scored once, and each run has its own bill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepprune.core.protocols import FloatArray, IntArray, Need, Session
from deepprune.core.types import Prefix, TracePair, among_peers
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache, cached_scores


class QuestionScores:
    """All scores of a question, shared by every policy, threshold and order of traces.

    Args:
        judge: Scores what is missing.
        cache: Scores on disk, kept between runs.
    """

    def __init__(self, judge: Judge, cache: ScoreCache | None = None) -> None:
        self.judge = judge
        self._cache = cache
        self._prefixes: list[Prefix] = []
        self._ids: dict[tuple[str, int, int, int], int] = {}
        self._scores: FloatArray = np.full((128, 128), np.nan)
        self._prices: FloatArray = np.zeros((128, 128, 3))  # tokens, FLOPs, 1 if sent

    def score_all(self, ids: IntArray) -> None:
        """Score all pairs of these prefixes in one call, unless the judge is a neural network."""
        if self.judge.is_model or len(ids) < 2 or not np.isnan(self._scores[ids[0], ids[-1]]):
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
            self._scores[a, b], self._prices[a, b] = found, prices

    def of_one_run(self) -> QuestionScores:
        """Return a table for one run: a new one for a judge that reads peers, else this one."""
        return QuestionScores(self.judge, self._cache) if self.judge.reads_peers else self

    def prefix_ids(self, prefixes: Sequence[Prefix]) -> IntArray:
        """Return the numbers of prefixes that exist at the same time, shape ``(n,)``."""
        known = among_peers(prefixes) if self.judge.reads_peers else prefixes
        return np.array([self.prefix_id(prefix) for prefix in known], dtype=np.int64)

    def prefix_id(self, prefix: Prefix) -> int:
        """Return the number of a prefix; the same tokens of the same trace have the same one."""
        trace = prefix.trace
        key = (trace.model, trace.sample_id, prefix.n_tokens, id(prefix.peers))
        if key not in self._ids:
            self._ids[key] = len(self._prefixes)
            self._prefixes.append(prefix)
            if (n := len(self._scores)) < len(self._prefixes):
                self._scores = np.pad(self._scores, (0, n), constant_values=np.nan)
                self._prices = np.pad(self._prices, ((0, n), (0, n), (0, 0)))
        return self._ids[key]

    def lookup(self, ids: IntArray) -> FloatArray:
        """Return the scores of pairs of prefix numbers, shape ``(P, 2)`` -> ``(P,)``."""
        scores = self._scores[ids[:, 0], ids[:, 1]]
        missing = np.isnan(scores)
        if missing.any():
            self._compute(np.unique(self._one_way(ids[missing]), axis=0))
            scores = self._scores[ids[:, 0], ids[:, 1]]
        return scores

    def prices(self, ids: IntArray) -> FloatArray:
        """Return prices of scored pairs, see `clustering.PricePairs`, ``(P, 2)`` -> ``(P, 3)``."""
        return self._prices[ids[:, 0], ids[:, 1]]

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
            named = ((self._prefixes[i], i) for i in np.unique(read).tolist())
            once = {(p.trace.model, p.trace.sample_id, p.n_tokens): i for p, i in named}
            numbers = np.array(list(once.values()), dtype=np.int64)
            paid = paid + self.prefix_prices(numbers)[judge].sum(0)
        return np.array([len(ids), *paid])

    def _one_way(self, ids: IntArray) -> IntArray:
        """Put the smaller number of each pair first if the judge is symmetric."""
        return np.sort(ids, axis=1) if self.judge.is_symmetric else ids


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
        self._scores = None if scores is None else scores.of_one_run()
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
