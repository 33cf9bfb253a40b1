"""Rare overlaps of a pair, and how common each prefix is among all of its question.

P: pairs, n: peers, K: kinds of sets, see ``overlaps.KINDS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from scipy.sparse import csr_array

from deepprune.core.progress import Bar
from deepprune.core.protocols import FloatArray
from deepprune.core.types import Peers, Prefix, TracePair
from deepprune.judge.features.overlaps import KINDS, prefix_sets

NAMES = tuple(
    f"{kind}_{measure}"
    for kind in KINDS
    for measure in (
        "rarity_jaccard",
        "mean_low",
        "mean_high",
        "rarity_mean_low",
        "rarity_mean_high",
    )
)
"""Names of the columns."""


_Tables: TypeAlias = tuple[dict[tuple[str, int], int], FloatArray, FloatArray]
"""Rows of n peers by model and sample; Jaccard index weighed by rarity of each two peers,
``(K, n, n)``; mean index of a peer with all others, plain and weighed, ``(K, 2, n)``."""

_known: WeakKeyDictionary[Peers, _Tables] = WeakKeyDictionary()


def columns(pairs: Sequence[TracePair]) -> FloatArray:
    """Compare pairs with their peers, finite, shape ``(P, 5 K)``; symmetric.

    For each kind of set: the Jaccard index weighed by rarity, ``log((n + 1) / (m + 1/2))`` for an
    element that m of the n peers have; and the mean index, plain and weighed, of each of the two
    prefixes with all other peers, the lower and the higher. The first measures overlaps that others
    lack, the rest how common each approach is. Peers may have finished, and then show their
    answers, as they do to a policy.

    Raises:
        ValueError: If a pair does not say who its peers are.
    """
    features = np.zeros((len(pairs), len(NAMES)))
    rows: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        if pair.first.peers is None or pair.first.peers is not pair.second.peers:
            raise ValueError(
                "a pair must have peers, the same for both prefixes, got none: make prefixes with "
                "types.among_peers."
            )
        rows.setdefault(id(pair.first.peers), []).append(number)
    groups = Bar(rows.values(), desc="peers, questions: ")
    for numbers in groups:
        peers = pairs[numbers[0]].first.peers
        assert peers is not None
        if peers not in _known:
            _known[peers] = _tables(peers)
        row, weighted, means = _known[peers]
        ends = np.array(
            [[row[_name(p)] for p in (pairs[i].first, pairs[i].second)] for i in numbers]
        )
        weighted = weighted[:, ends[:, 0], ends[:, 1]]  # (K, P)
        means = means[:, :, ends]  # (K, 2, P, 2)
        low_high = np.stack([means.min(-1), means.max(-1)], axis=2).reshape(len(KINDS), 4, -1)
        found = np.concatenate([weighted[:, None], low_high], axis=1)  # (K, 5, P)
        features[numbers] = found.reshape(-1, len(ends)).T
    return features


def _tables(peers: Peers) -> _Tables:
    n = len(peers.prefixes)
    sets = [prefix_sets(prefix) for prefix in peers.prefixes]
    weighted, means = np.zeros((len(KINDS), n, n)), np.zeros((len(KINDS), 2, n))
    for kind in range(len(KINDS)):
        of_kind = [s[kind] for s in sets]
        sizes = [len(s) for s in of_kind]
        names, column = np.unique(np.concatenate(of_kind), return_inverse=True)
        has = csr_array(
            (np.ones(len(column)), (np.repeat(np.arange(n), sizes), column)), shape=(n, len(names))
        )
        frequency = np.bincount(column, minlength=len(names))
        rarity = np.log((n + 1) / (frequency + 0.5))
        for number, weights in enumerate((np.ones(len(names)), rarity)):
            index = _jaccard(has, weights)
            means[kind, number] = (index.sum(1) - index.diagonal()) / max(1, n - 1)
        weighted[kind] = index
    return {_name(p): row for row, p in enumerate(peers.prefixes)}, weighted, means


def _jaccard(has: csr_array, weights: FloatArray) -> FloatArray:
    """Compute the weighed Jaccard index of a matrix's rows, ``(n, M)``, ``(M,)`` -> ``(n, n)``."""
    shared = (has.multiply(weights) @ has.T).toarray()
    sizes = has @ weights
    union = sizes[:, None] + sizes[None] - shared
    index: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 1e-9)
    return index


def _name(prefix: Prefix) -> tuple[str, int]:
    return prefix.trace.model, prefix.trace.sample_id
