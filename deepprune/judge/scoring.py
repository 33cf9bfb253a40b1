"""Scores of pairs, each computed once and checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepprune.core.protocols import FloatArray
from deepprune.core.types import TracePair
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache

CHUNK = 2048  # pairs that are scored before they are recorded


def cached_scores(judge: Judge, cache: ScoreCache | None, pairs: Sequence[TracePair]) -> FloatArray:
    """Score pairs, shape ``(len(pairs),)``; only those not in ``cache`` are computed.

    A neural network's scores are recorded a chunk at a time, so that a kill costs little.

    Raises:
        ValueError: If a score lies outside [0, 1].
    """
    fingerprint = judge.provenance.fingerprint
    if cache is None or fingerprint is None or not judge.is_model or judge.reads_peers:
        return _checked(judge.score(pairs), judge)
    scores = cache.get_many(fingerprint, pairs)
    missing = np.flatnonzero(np.isnan(scores)).tolist()
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        todo = [pairs[i] for i in chunk]
        scores[chunk] = _checked(judge.score(todo), judge)
        cache.put_many(fingerprint, todo, scores[chunk])
    return scores


def _checked(scores: FloatArray, judge: Judge) -> FloatArray:
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN fails as well
        bad = scores[~((scores >= 0) & (scores <= 1))][0]
        raise ValueError(f"judge {judge.provenance.name!r} gave {bad}; a score lies in [0, 1].")
    return scores
