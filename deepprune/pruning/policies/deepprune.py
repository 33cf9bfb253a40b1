"""DeepPrune: cluster all traces on a prefix, stop the redundant ones, vote over the others.

Tu et al. 2025 (https://arxiv.org/abs/2510.08483). Departures, where the paper is silent:

- Traces are exchangeable, so "drawn" finishers are the earliest ones.
- The members that a trace is compared with are a reservoir sample of their cluster: uniform at any
  time, but not drawn afresh for every comparison.
- The cap K3 for all-singleton clusterings is not given; it defaults to K2's 20.
- A trace that ended before the checkpoint is clustered on its whole text, like any other. If no
  finisher has an answer, these traces vote.
- The similarity of a trace to a cluster is the mean of the judge's probabilities, as the paper
  writes it; a secondary source averages the decisions "same" or "different".

Beyond the paper: other clusterings, weights for representatives, waves, and a stop once the vote is
decided. All are off by default.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from deepprune.core.options import Count, Ge, Gt, Lt, checked
from deepprune.core.protocols import (
    BoolArray,
    Evidence,
    FloatArray,
    IntArray,
    Need,
    Observation,
    PolicyRun,
    Step,
)
from deepprune.core.types import Decision, PrefixRule, StopReason
from deepprune.pruning.clustering import Clusterings, cluster, is_representative
from deepprune.pruning.stopping import is_decided
from deepprune.pruning.voting import or_of_finished, plurality


@checked
@dataclass(frozen=True, slots=True)
class DeepPrune:
    """Clustering at a checkpoint, then one of the paper's two finishing rules.

    Attributes:
        prefix: Where all traces pause and are clustered.
        threshold: tau in [0, 1]; a similarity above it joins a cluster.
        clustering: How traces are grouped, see `pruning.clustering`.
        max_clusters: K, the most clusters.
        max_members: K1, the most members of a cluster that ``greedy`` compares a trace with.
        finish: ``largest_cluster``: up to ``max_finishers`` of the largest cluster go on and vote;
            if all clusters are singletons, ``singleton_finishers`` of all traces do.
            ``representatives``: the first trace of each cluster goes on and votes.
        max_finishers: K2.
        singleton_finishers: K3.
        vote: Weight of a representative: ``plain`` 1; ``size`` the size of its cluster;
            ``posterior`` the expected number of traces with its answer, the sum of the members'
            similarities.
        wave: Traces that start at once, are clustered among themselves and finish; then the next
            wave, with one vote over all. ``None``: all at once.
        stop_confidence: No further wave starts, and running traces are stopped, once the leading
            answer stays ahead with this probability (`stopping.is_decided`, rule ``beta``);
            ``None``: never.
        check_every: With ``stop_confidence``, tokens between two checks of the votes.
    """

    prefix: PrefixRule
    threshold: Annotated[float, Ge(0)] = 0.5
    clustering: Literal["greedy", "posterior", "average"] = "greedy"
    max_clusters: Count = 32
    max_members: Count = 10
    finish: Literal["largest_cluster", "representatives"] = "largest_cluster"
    max_finishers: Count = 20
    singleton_finishers: Count = 20
    vote: Literal["plain", "size", "posterior"] = "plain"
    wave: Count | None = None
    stop_confidence: Annotated[float, Gt(0), Lt(1)] | None = None
    check_every: Count = 500
    name: str = "deepprune"

    @property
    def needs(self) -> frozenset[Need]:
        """The judge, and the text if the prefix counts words."""
        counts_words = self.prefix.kind == "reasoning_words"
        return frozenset([Need.JUDGE] + [Need.TEXT] * counts_words)

    @property
    def decides_once(self) -> bool:
        """Whether all decisions fall at one checkpoint, so that a replay can batch runs."""
        return self.wave is None and self.stop_confidence is None

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        voters: list[int] = []
        weights: list[float] = []
        wave = self.wave or n_traces
        for first in range(0, n_traces, wave):
            traces = np.arange(first, min(first + wave, n_traces))
            seen = yield Step(start=len(traces), until=self.prefix)
            clusters = cluster(
                self.clustering,
                evidence.score,
                traces[None],
                [self.threshold],
                rng.random(len(traces))[None],
                max_clusters=self.max_clusters,
                max_members=self.max_members,
            )
            mask, weight = self.finishers(clusters)
            chosen = np.flatnonzero(mask[0])
            voters += traces[chosen].tolist()
            weights += weight[0, chosen].tolist()
            stop = self._decisions(clusters, mask[0], traces, seen)
            seen = yield from self._finish(stop, traces[chosen], voters, weights)
            if self._is_decided(seen, voters, weights):
                break
        answers, finished = seen.answer_class.tolist(), np.flatnonzero(seen.is_finished).tolist()
        return or_of_finished(plurality(answers, voters, weights), answers, finished)

    def finishers(self, clusters: Clusterings) -> tuple[BoolArray, FloatArray]:
        """Return which traces continue, and their weights in the vote, both ``(G, N)``."""
        labels = clusters.labels
        n_rows, n = labels.shape
        flat = np.arange(n_rows)[:, None] * n + labels
        sizes = np.bincount(flat.ravel(), minlength=n_rows * n).reshape(n_rows, n)
        if self.finish == "representatives":
            weights = np.ones((n_rows, n))
            if self.vote == "size":
                weights = np.take_along_axis(sizes, labels, 1).astype(np.float64)
            elif self.vote == "posterior":
                expected = np.bincount(flat.ravel(), clusters.similarity.ravel(), n_rows * n)
                weights = expected[flat]
            return is_representative(labels), weights
        largest = sizes.argmax(1)  # the earliest of equals
        is_member = labels == largest[:, None]
        mask = is_member & (is_member.cumsum(1) <= self.max_finishers)
        alone = sizes.max(1) == 1
        mask[alone] = np.arange(n) < self.singleton_finishers
        return mask, np.ones((n_rows, n))

    def _finish(
        self, stop: list[Decision], traces: IntArray, voters: list[int], weights: list[float]
    ) -> Generator[Step, Observation, Observation]:
        """Run the finishers ``traces`` to their end, or until ``stop_confidence`` is reached."""
        if self.stop_confidence is None:
            return (yield Step(stop=stop))
        while True:
            seen = yield Step(stop=stop, until=self.check_every)
            running = traces[~seen.is_finished[traces] & ~seen.is_stopped[traces]].tolist()
            if not running:
                return seen
            if self._is_decided(seen, voters, weights):
                return (yield Step(stop=[Decision(t, StopReason.DECIDED) for t in running]))
            stop = []

    def _is_decided(self, seen: Observation, voters: list[int], weights: list[float]) -> bool:
        """Return whether the answers so far decide the question at ``stop_confidence``."""
        if self.stop_confidence is None:
            return False
        vote = plurality(seen.answer_class.tolist(), voters, weights)
        return is_decided(vote.weights.values(), "beta", self.stop_confidence)

    def _decisions(
        self, clusters: Clusterings, goes_on: BoolArray, traces: IntArray, seen: Observation
    ) -> list[Decision]:
        """Return decisions on all running traces that do not continue, cluster by cluster."""
        labels = clusters.labels[0]
        first = np.flatnonzero(is_representative(clusters.labels)[0])
        decisions = []
        for i in np.argsort(labels, kind="stable").tolist():
            trace, number = int(traces[i]), int(labels[i])
            if goes_on[i] or seen.is_finished[trace] or seen.is_stopped[trace]:
                continue
            is_represented = bool(goes_on[first[number]])
            decisions.append(
                Decision(
                    trace,
                    StopReason.REDUNDANT if is_represented else StopReason.NOT_CHOSEN,
                    cluster=number,
                    by=int(traces[first[number]]) if is_represented else None,
                    score=float(clusters.similarity[0, i]),
                )
            )
        return decisions
