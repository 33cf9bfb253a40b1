"""How long two prefixes are and how often they hesitate: logarithms of counts.

P: pairs, F: columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepprune.core.protocols import FloatArray
from deepprune.core.types import Prefix, TracePair
from deepprune.judge.features.overlaps import COUNTS, distinct_prefixes, text_counts

_ALL = (COUNTS[0], "tokens", *COUNTS[1:])
NAMES = tuple(f"{count}_{measure}" for measure in ("low", "high") for count in _ALL)
"""Names of the columns: of each count the lower and the higher of the two prefixes."""


def columns(pairs: Sequence[TracePair]) -> FloatArray:
    """``log(1 + count)`` of pairs, finite, shape ``(P, F)``; swapping a pair changes nothing."""
    prefixes, ends = distinct_prefixes(pairs)
    found = [_all_counts(prefix) for prefix in prefixes]
    counts = np.log1p(np.array(found, dtype=np.float64).reshape(-1, len(_ALL)))
    a, b = counts[ends[:, 0]], counts[ends[:, 1]]
    return np.column_stack([np.minimum(a, b), np.maximum(a, b)])


def _all_counts(prefix: Prefix) -> tuple[int, ...]:
    characters, *others = text_counts(prefix)
    return characters, prefix.n_tokens, *others
