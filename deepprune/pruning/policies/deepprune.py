"""DeepPrune: cluster all traces on a prefix, stop the redundant, vote over those that go on.

Tu et al. 2025 (https://arxiv.org/abs/2510.08483). Departures, where the paper is silent:

- Traces are exchangeable, so "drawn" finishers are the earliest ones.
- The cap K3 for all-singleton clusterings is not given; it defaults to K2's 20.
- A trace that ended before the checkpoint is clustered on its whole text, like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepprune.protocols import PolicyRun, ScorePairs, Step
from deepprune.pruning.clustering import Cluster, greedy_clusters
from deepprune.pruning.voting import plurality
from deepprune.types import Decision, PrefixRule, StopReason


@dataclass(frozen=True, slots=True)
class DeepPrune:
    """Greedy clustering at one checkpoint, then one of the paper's two finishing rules.

    Attributes:
        prefix: Where all traces pause and are clustered.
        threshold: tau in [0, 1]; a similarity above it joins a cluster.
        max_clusters: K, the most clusters.
        max_members: K1, the most members of a cluster that a trace is compared with.
        finish: ``largest_cluster``: up to ``max_finishers`` of the largest cluster go on and vote;
            where all clusters are singletons, ``singleton_finishers`` of all traces do.
            ``representatives``: the first trace of each cluster goes on and votes.
        max_finishers: K2.
        singleton_finishers: K3.
        vote: For ``representatives``: ``plain``, or ``size`` to weigh each by its cluster's size.
    """

    prefix: PrefixRule
    threshold: float = 0.5
    max_clusters: int = 32
    max_members: int = 10
    finish: Literal["largest_cluster", "representatives"] = "largest_cluster"
    max_finishers: int = 20
    singleton_finishers: int = 20
    vote: Literal["plain", "size"] = "plain"
    name: str = "deepprune"

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, got {self.threshold}.")
        for field in ("max_clusters", "max_members", "max_finishers", "singleton_finishers"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}.")
        if self.finish not in ("largest_cluster", "representatives"):
            raise ValueError(
                f"finish must be largest_cluster or representatives, got {self.finish!r}."
            )
        if self.vote not in ("plain", "size"):
            raise ValueError(f"vote must be plain or size, got {self.vote!r}.")

    def run(self, n_traces: int, score: ScorePairs, rng: np.random.Generator) -> PolicyRun:
        """Advance all traces to the prefix, cluster, stop, finish, vote."""
        seen = yield Step(start=n_traces, until=self.prefix)
        clusters = greedy_clusters(
            n_traces,
            score,
            rng,
            threshold=self.threshold,
            max_clusters=self.max_clusters,
            max_members=self.max_members,
        )
        finishers, weights = self._finishers(n_traces, clusters)
        stop = [d for d in _stops(clusters, set(finishers)) if not seen.is_finished[d.trace]]
        seen = yield Step(stop=stop)
        return plurality(seen.answer_class.tolist(), finishers, weights)

    def _finishers(
        self, n_traces: int, clusters: list[Cluster]
    ) -> tuple[list[int], list[float] | None]:
        if self.finish == "representatives":
            sizes = [float(len(c.members)) for c in clusters]
            return [c.representative for c in clusters], sizes if self.vote == "size" else None
        largest = max(clusters, key=lambda c: len(c.members))  # the earliest of equals
        if len(largest.members) == 1:
            return list(range(min(self.singleton_finishers, n_traces))), None
        return largest.members[: self.max_finishers], None


def _stops(clusters: list[Cluster], finishers: set[int]) -> list[Decision]:
    """A decision for every trace that does not go on."""
    decisions = []
    for number, cluster in enumerate(clusters):
        is_represented = cluster.representative in finishers
        for trace, similarity in zip(cluster.members, cluster.similarities, strict=True):
            if trace not in finishers:
                decisions.append(
                    Decision(
                        trace,
                        StopReason.REDUNDANT if is_represented else StopReason.NOT_CHOSEN,
                        cluster=number,
                        by=cluster.representative if is_represented else None,
                        score=similarity,
                    )
                )
    return decisions
