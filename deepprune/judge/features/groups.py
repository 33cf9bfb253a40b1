"""The table of feature groups: columns of numbers about a pair that ``model=linear`` can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.protocols import TEXT_ALONE, FloatArray, Need
from deepprune.core.types import TracePair
from deepprune.judge.features import forced_answers, lengths, overlaps, peers


class FeatureGroup(NamedTuple):
    """Columns that are computed together.

    Attributes:
        names: Names of the columns.
        columns: Pairs to finite numbers of shape ``(P, len(names))``; a swapped pair has the same.
        needs: Parts of the traces that are read.
        reads_peers: Whether all prefixes of the question are read.
        is_model: Whether a neural network computes them.
    """

    names: tuple[str, ...]
    columns: Callable[[Sequence[TracePair]], FloatArray]
    needs: frozenset[Need] = TEXT_ALONE
    reads_peers: bool = False
    is_model: bool = False


def _embedding_cosine(pairs: Sequence[TracePair]) -> FloatArray:
    from deepprune.judge.features.embeddings import cosine  # torch only here

    return cosine(pairs)[:, None]


GROUPS = {
    "overlaps": FeatureGroup(overlaps.NAMES, overlaps.columns),
    "lengths": FeatureGroup(lengths.NAMES, lengths.columns),
    "peers": FeatureGroup(peers.NAMES, peers.columns, reads_peers=True),
    "forced_answers": FeatureGroup(
        forced_answers.NAMES, forced_answers.columns, needs=frozenset({Need.FORCED_ANSWERS})
    ),
    "embedding_cosine": FeatureGroup(("embedding_cosine",), _embedding_cosine, is_model=True),
}


def joined_groups(names: Sequence[str]) -> FeatureGroup:
    """Put the columns of the named groups side by side.

    Raises:
        InputError: If there is none, one is unknown, or one is named twice.
    """
    if not names or set(names) - set(GROUPS) or len(set(names)) < len(names):
        raise InputError(
            f"model.groups must be some of {', '.join(GROUPS)}, each once, got {list(names)}."
        )
    groups = [GROUPS[name] for name in names]
    return FeatureGroup(
        names=tuple(column for group in groups for column in group.names),
        columns=partial(_side_by_side, groups),
        needs=frozenset[Need]().union(*(group.needs for group in groups)),
        reads_peers=any(group.reads_peers for group in groups),
        is_model=any(group.is_model for group in groups),
    )


def _side_by_side(groups: Sequence[FeatureGroup], pairs: Sequence[TracePair]) -> FloatArray:
    return np.concatenate([group.columns(pairs) for group in groups], axis=1)
