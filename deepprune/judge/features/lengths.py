"""Lengths of two prefixes and how often they hesitate: logarithms of counts.

P: pairs, F: columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepprune.core.protocols import FloatArray
from deepprune.core.types import TracePair
from deepprune.judge.features.overlaps import COUNTS, distinct_prefixes, text_counts

_ALL = (COUNTS[0], "tokens", *COUNTS[1:])
NAMES = tuple(f"{count}_{measure}" for measure in ("low", "high") for count in _ALL)
"""Names of the columns: of each count the lower and the higher of the two prefixes."""


def columns(pairs: Sequence[TracePair]) -> FloatArray:
    """Compute ``log(1 + count)`` of pairs, finite, shape ``(P, F)``; symmetric."""
    prefixes, ends = distinct_prefixes(pairs)
    found = []
    for prefix in prefixes:
        characters, *others = text_counts(prefix)
        found.append((characters, prefix.n_tokens, *others))
    counts = np.log1p(np.array(found, dtype=np.float64).reshape(-1, len(_ALL)))[ends]
    return np.column_stack([counts.min(1), counts.max(1)])
