"""Clusters of traces that a judge expects to end in the same answer.

Every method clusters many runs at once: R orders of the traces at T thresholds, because a sweep
needs all of them. A live question is one order and one threshold.

- ``greedy``: one trace after the other, as in DeepPrune.
- ``posterior``: log-odds of the scores with a Chinese-restaurant prior, re-assigned until stable.
- ``average``: agglomerative with average linkage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from deepprune.core.protocols import BoolArray, FloatArray, IntArray, ScorePairs

PricePairs = Callable[[IntArray], FloatArray]
"""Price of scoring pairs, ``(P, 2)`` -> ``(P, 3)``: judge tokens and FLOPs of each, and whether it
is sent to a second judge (`Judge.sends`).
"""

RESEATINGS = 5
"""The most rounds of re-assignment of the ``posterior`` method."""


@dataclass(frozen=True, slots=True)
class Clusterings:
    """G clusterings of N traces; traces are numbered in the order of their start.

    Attributes:
        labels: Number of each trace's cluster, in the order of opening, shape ``(G, N)``. A
            cluster's representative is its first trace.
        similarity: Similarity of each trace to the rest of its cluster, in [0, 1]; by the greedy
            method that with which it joined; 1 for a representative, shape ``(G, N)``.
        bill: Pairs that were scored, judge tokens, FLOPs, shape ``(G, 3)``.
        is_sent: Whether a pair of the trace is sent to a second judge, shape ``(G, N)``.
        at: Row of the clustering of an order and a threshold, shape ``(R, T)``.
    """

    labels: IntArray
    similarity: FloatArray
    bill: FloatArray
    is_sent: BoolArray
    at: IntArray


def cluster(
    method: str,
    score: ScorePairs,
    orders: IntArray,
    thresholds: Sequence[float],
    draws: FloatArray,
    *,
    max_clusters: int,
    max_members: int,
    price: PricePairs | None = None,
) -> Clusterings:
    """Cluster traces in each of R orders at each of T thresholds.

    Args:
        method: ``greedy``, ``posterior`` or ``average``.
        score: The judge, on pairs of trace numbers of ``orders``, the earlier trace first.
        orders: The traces in the order of their start, shape ``(R, N)``.
        thresholds: tau; a trace joins a cluster with a similarity above it.
        draws: Uniform draws for the greedy method's members, shape ``(R, N)``.
        max_clusters: K, the most clusters.
        max_members: K1, the most members that ``greedy`` compares a trace with.
        price: Price of pairs; without it only their number is billed.
    """
    taus, place = np.unique(np.asarray(thresholds, dtype=np.float64), return_inverse=True)
    if method == "greedy" or orders.shape[1] == 1:
        found = _greedy(score, orders, taus, draws, max_clusters, max_members, price)
    else:
        found = _from_matrix(method, score, orders, taus, max_clusters, price)
    return replace(found, at=found.at[:, place])


def _greedy(
    score: ScorePairs,
    orders: IntArray,
    taus: FloatArray,
    draws: FloatArray,
    max_clusters: int,
    max_members: int,
    price: PricePairs | None,
) -> Clusterings:
    """Cluster as DeepPrune does (arXiv 2510.08483, section 4.2).

    For trace t and cluster c, ``sim(t, c)`` is the mean score over ``min(max_members, |c|)`` of its
    members, drawn without replacement. The trace joins the most similar cluster when that
    similarity exceeds the threshold; else it opens a new one while fewer than ``max_clusters``
    exist, and at the cap it joins the most similar. The drawn members are a reservoir sample, which
    is uniform at any time.

    Thresholds with the same decisions so far share a row; a similarity between two of them splits
    it. A further threshold thus costs only the decisions that it changes.
    """
    n_orders, n = orders.shape
    order = np.arange(n_orders)  # order and range of thresholds of each row
    low, high = np.zeros(n_orders, dtype=np.int64), np.full(n_orders, len(taus))
    labels = np.zeros((n_orders, n), dtype=np.int64)
    similarity = np.ones((n_orders, n))
    slot = np.full((n_orders, n), -1, dtype=np.int32)  # place in its cluster's reservoir, or -1
    sizes = np.zeros((n_orders, min(max_clusters, n)), dtype=np.int64)
    bill, is_sent = np.zeros((n_orders, 3)), np.zeros((n_orders, n), dtype=bool)
    sizes[:, 0], slot[:, 0] = 1, 0
    for t in range(1, n):
        drawn = slot[:, :t] >= 0
        bill[:, 0] += drawn.sum(1)
        scores = _column(score, orders, order, t, drawn)
        if price is not None:
            prices = _column(price, orders, order, t, drawn)
            bill[:, 1:] += prices[..., :2].sum(1)
            sent = prices[..., 2] > 0
            is_sent[:, :t] |= sent
            is_sent[:, t] = sent.any(1)
        flat = np.arange(len(order))[:, None] * sizes.shape[1] + labels[:, :t]
        sums = np.bincount(flat.ravel(), scores.ravel(), sizes.size)
        n_drawn = np.minimum(np.maximum(sizes, 1), max_members)
        means = np.where(sizes > 0, sums.reshape(sizes.shape) / n_drawn, -np.inf)
        best = means.argmax(1)
        closest = means[np.arange(len(order)), best]
        n_clusters = (sizes > 0).sum(1)
        joining = np.searchsorted(taus, closest)  # so many thresholds are below the similarity
        joining[n_clusters >= max_clusters] = len(taus)
        joins, opens = low < joining, joining < high
        parents = np.concatenate((np.flatnonzero(joins), np.flatnonzero(opens)))
        is_join = np.arange(len(parents)) < joins.sum()
        low, high = (
            np.where(is_join, low[parents], np.maximum(low, joining)[parents]),
            np.where(is_join, np.minimum(high, joining)[parents], high[parents]),
        )
        order, labels, slot, bill = order[parents], labels[parents], slot[parents], bill[parents]
        sizes, similarity, is_sent = sizes[parents], similarity[parents], is_sent[parents]
        labels[:, t] = chosen = np.where(is_join, best[parents], n_clusters[parents])
        similarity[:, t] = np.where(is_join, closest[parents], 1.0)
        _join(t, chosen, labels, sizes, slot, draws[order, t], max_members)
    at = np.empty((n_orders, len(taus)), dtype=np.int64)
    for row, (r, first, last) in enumerate(zip(order, low, high, strict=True)):
        at[r, first:last] = row
    return Clusterings(labels, similarity, bill, is_sent, at)


def _join(
    t: int,
    chosen: IntArray,
    labels: IntArray,
    sizes: IntArray,
    slot: NDArray[np.int32],
    draw: FloatArray,
    max_members: int,
) -> None:
    """Add trace t to its cluster of each row, and by chance to the cluster's reservoir.

    The reservoir (algorithm R) keeps ``max_members`` uniform members; a new one replaces another.
    """
    rows = np.arange(len(chosen))
    sizes[rows, chosen] += 1
    size = sizes[rows, chosen]
    place = np.where(size <= max_members, size - 1, (draw * size).astype(np.int64))
    enters = place < max_members
    full = np.flatnonzero(enters & (size > max_members))
    leaves = labels[full, :t] == chosen[full, None]
    leaves &= slot[full, :t] == place[full, None]
    slot[full, leaves.argmax(1)] = -1
    slot[enters, t] = place[enters]


def _column(
    ask: Callable[[IntArray], FloatArray],
    orders: IntArray,
    order: IntArray,
    t: int,
    wanted: BoolArray,
) -> FloatArray:
    """Return ``ask`` of trace t and each before it, ``(G, t)``; 0 where it is not ``wanted``.

    A pair that several rows of one order want is asked for once.
    """
    cells = (order[:, None] * t + np.arange(t))[wanted]
    r, member = np.divmod(np.flatnonzero(np.bincount(cells, minlength=len(orders) * t)), t)
    found = ask(np.column_stack((orders[r, member], orders[r, t])))
    columns = np.zeros((len(orders), t, *found.shape[1:]))
    columns[r, member] = found
    mask = wanted.reshape(*wanted.shape, *(1 for _ in found.shape[1:]))
    values: FloatArray = np.where(mask, columns[order], 0.0)
    return values


def _from_matrix(
    method: str,
    score: ScorePairs,
    orders: IntArray,
    taus: FloatArray,
    max_clusters: int,
    price: PricePairs | None,
) -> Clusterings:
    """Cluster by a method that needs the scores of all pairs."""
    n_orders, n = orders.shape
    first, second = np.triu_indices(n, 1)
    roots: list[IntArray] = []
    similarities, bills, sent = [], [], []
    at = np.empty((n_orders, len(taus)), dtype=np.int64)
    for r, order in enumerate(orders):
        pairs = np.column_stack((order[first], order[second]))
        scores = np.zeros((n, n))
        scores[first, second] = scores[second, first] = score(pairs)
        if method == "average":
            root, rows = _average(scores, taus, max_clusters)
            members = (root[:, :, None] == root[:, None]) & ~np.eye(n, dtype=bool)
            resemblance = (scores * members).sum(2) / np.maximum(members.sum(2), 1)
        else:
            found = [_posterior(scores, tau, max_clusters) for tau in taus]
            root, resemblance = (np.stack(part) for part in zip(*found, strict=True))
            rows = np.arange(len(taus))
        at[r] = sum(len(part) for part in roots) + rows
        roots.append(root)
        similarities.append(np.where(root == np.arange(n), 1.0, resemblance))
        prices = np.zeros((len(pairs), 3)) if price is None else price(pairs)
        bills.append(np.tile([len(pairs), *prices[:, :2].sum(0)], (len(root), 1)))
        is_sent = np.isin(np.arange(n), np.stack((first, second))[:, prices[:, 2] > 0])
        sent.append(np.tile(is_sent, (len(root), 1)))
    labels = _numbered(np.concatenate(roots))
    similarity, bill, is_sent = map(np.concatenate, (similarities, bills, sent))
    return Clusterings(labels, similarity, bill, is_sent, at)


def _average(scores: FloatArray, taus: FloatArray, max_clusters: int) -> tuple[IntArray, IntArray]:
    """Join the two most similar clusters while their mean score exceeds the threshold.

    Returns:
        The first trace of each trace's cluster, one row per number of joins that some threshold
        allows, shape ``(G, N)``, and the row of each threshold, shape ``(T,)``.
    """
    from scipy.cluster.hierarchy import linkage  # takes .2 s, which other methods save

    n = len(scores)
    tree = linkage(1 - scores[np.triu_indices(n, 1)], "average")
    n_joins = np.searchsorted(tree[:, 2], 1 - taus)  # heights below 1 - tau; they never decrease
    n_joins = np.maximum(n_joins, n - max_clusters)
    wanted, rows = np.unique(n_joins, return_inverse=True)
    root = np.arange(n)
    first = [*range(n)]  # the first trace of each node of the tree
    found = {0: root.copy()}
    for step, (a, b) in enumerate(tree[:, :2].astype(int).tolist(), 1):
        stays, goes = sorted((first[a], first[b]))
        root[root == goes] = stays
        first.append(stays)
        found[step] = root.copy()
    return np.stack([found[step] for step in wanted.tolist()]), rows


def _posterior(scores: FloatArray, tau: float, max_clusters: int) -> tuple[IntArray, FloatArray]:
    """Assign each trace in turn to its most probable cluster, until none moves.

    A pair with score s shares an answer with log-odds ``logit(s) - logit(tau)``. Trace t joins
    cluster c with log-probability ``log |c|`` plus the log-odds of its members, or opens a new one
    with log 1: a Chinese-restaurant prior of concentration 1 (Pitman 2006). Pairs are treated as
    independent, which they are not: extreme scores weigh too much.
    """
    n = len(scores)
    odds = logit(np.clip(scores, 1e-6, 1 - 1e-6)) - logit(np.clip(tau, 1e-6, 1 - 1e-6))
    np.fill_diagonal(odds, 0.0)
    seats = np.zeros((n, n + 1))  # one-hot cluster of each trace
    labels = np.full(n, -1)
    for _ in range(1 + RESEATINGS):
        before = labels.copy()
        for t in range(n):
            seats[t] = 0.0
            sizes = seats.sum(0)
            with np.errstate(divide="ignore"):
                support = np.where(sizes > 0, np.log(sizes) + odds[t] @ seats, -np.inf)
            if (sizes > 0).sum() < max_clusters:
                support[int((sizes == 0).argmax())] = 0.0
            labels[t] = int(support.argmax())
            seats[t, labels[t]] = 1.0
        if (labels == before).all():
            break
    members = labels[:, None] == labels
    root: IntArray = members.argmax(1)
    mean_odds = (odds * members).sum(1) / np.maximum(members.sum(1) - 1, 1)
    return root, expit(mean_odds + logit(np.clip(tau, 1e-6, 1 - 1e-6)))


def _numbered(root: IntArray) -> IntArray:
    """Number clusters in the order of opening, given the first trace of each trace's cluster."""
    opens = root == np.arange(root.shape[1])
    return np.take_along_axis(opens.cumsum(1) - 1, root, 1)


def is_representative(labels: IntArray) -> BoolArray:
    """Return whether each trace is the first of its cluster, shape ``(G, N)``."""
    highest = np.maximum.accumulate(labels, axis=1)
    opens = np.ones(labels.shape, dtype=bool)
    opens[:, 1:] = labels[:, 1:] > highest[:, :-1]
    return opens
