"""Scores of pairs, each computed once and checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepprune.core.protocols import FloatArray
from deepprune.core.types import TracePair
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache


def cached_scores(judge: Judge, cache: ScoreCache | None, pairs: Sequence[TracePair]) -> FloatArray:
    """Scores in [0, 1] of pairs, shape ``(len(pairs),)``; only those not in ``cache`` are computed.

    Raises:
        ValueError: If the judge gives anything else.
    """
    fingerprint = judge.provenance.fingerprint
    if cache is None or fingerprint is None or not judge.is_model or judge.reads_peers:
        return _checked(judge.score(pairs), judge)
    scores = cache.get_many(fingerprint, pairs)
    missing = np.flatnonzero(np.isnan(scores)).tolist()
    if missing:
        todo = [pairs[i] for i in missing]
        scores[missing] = _checked(judge.score(todo), judge)
        cache.put_many(fingerprint, todo, scores[missing])
    return scores


def _checked(scores: FloatArray, judge: Judge) -> FloatArray:
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN fails as well
        bad = scores[~((scores >= 0) & (scores <= 1))][0]
        raise ValueError(f"judge {judge.provenance.name!r} gave {bad}; a score lies in [0, 1].")
    return scores
