"""Clusters of traces that a judge expects to end in the same answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepprune.protocols import ScorePairs


@dataclass(slots=True)
class Cluster:
    """Traces that a judge expects to end in the same answer, in the order of joining.

    ``similarities`` holds the score with which each member joined; the first opened the cluster
    and has the best score that kept it out of the others (0 for the very first).
    """

    members: list[int]
    similarities: list[float]

    @property
    def representative(self) -> int:
        """The trace that opened the cluster."""
        return self.members[0]


def greedy_clusters(
    n_traces: int,
    score: ScorePairs,
    rng: np.random.Generator,
    *,
    threshold: float,
    max_clusters: int,
    max_members: int,
) -> list[Cluster]:
    """Cluster traces one after the other, as in DeepPrune (arXiv 2510.08483, section 4.2).

    For trace t and cluster c, ``sim(t, c)`` is the mean score over ``min(max_members, |c|)`` of its
    members, drawn without replacement. The trace joins the most similar cluster when that
    similarity exceeds ``threshold``; else it opens a new one while fewer than ``max_clusters``
    exist, and at the cap it joins the most similar.

    Args:
        n_traces: Traces 0 .. n_traces - 1, clustered in this order.
        score: Scores of pairs (member, trace), shape ``(P, 2)`` -> ``(P,)``.
        rng: Draws the members.
        threshold: tau; joining needs a similarity above it.
        max_clusters: K.
        max_members: K1.

    Returns:
        The clusters in the order of their opening; together they hold each trace once.
    """
    clusters: list[Cluster] = []
    for trace in range(n_traces):
        drawn = [
            c.members
            if len(c.members) <= max_members
            else rng.choice(c.members, max_members, replace=False).tolist()
            for c in clusters
        ]
        best, similarity = -1, 0.0
        if drawn:
            sizes = np.array([len(d) for d in drawn])
            members = np.concatenate([np.asarray(d, dtype=np.int64) for d in drawn])
            scores = score(np.column_stack((members, np.full_like(members, trace))))
            starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
            similarities = np.add.reduceat(scores, starts) / sizes
            best = int(similarities.argmax())
            similarity = float(similarities[best])
        if best >= 0 and (similarity > threshold or len(clusters) >= max_clusters):
            clusters[best].members.append(trace)
            clusters[best].similarities.append(similarity)
        else:
            clusters.append(Cluster([trace], [similarity]))
    return clusters
