"""Estimates of judge metrics on held-out questions, before and after calibration, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from deepprune.core.files import write_atomic
from deepprune.core.protocols import FloatArray
from deepprune.core.statistics import Estimate
from deepprune.core.types import TracePair
from deepprune.judge.measure.bootstrap import QuestionDraws, estimate
from deepprune.judge.measure.scored_pairs import UNFINISHED, PairScores
from deepprune.judge.score_cache import ScoreCache
from deepprune.judge.scoring import CHUNK
from deepprune.judge.trained import TrainedJudge

CALIBRATION_METRICS = ("ece", "brier", f"ece{UNFINISHED}", f"brier{UNFINISHED}")


def estimates(pairs: PairScores, draws: QuestionDraws) -> dict[str, Estimate]:
    """Every judge metric and count with its interval over questions, ``nan`` where undefined."""
    return {name: estimate(measure) for name, measure in draws.measure(pairs).items()}


def estimates_by_part(
    pairs: Sequence[TracePair], scored: PairScores, draws: QuestionDraws
) -> dict[str, dict[str, Estimate]]:
    """Estimates of ``all`` pairs and, where there are several, by ``model=`` and ``dataset=``."""
    parts = {"all": estimates(scored, draws)}
    datasets = np.array([pair.first.trace.question.dataset for pair in pairs], dtype=str)
    for kind, of_pair in (("model", scored.model), ("dataset", datasets)):
        names = sorted(set(of_pair.tolist()))
        for name in names if len(names) > 1 else ():
            parts[f"{kind}={name}"] = estimates(scored.select(of_pair == name), draws)
    return parts


def scores_before_and_after(
    judge: TrainedJudge, pairs: Sequence[TracePair], cache: ScoreCache
) -> tuple[FloatArray, FloatArray]:
    """Score without and with the judge's calibration in one pass, each of shape ``(P,)``.

    A neural network's scores are recorded a chunk at a time, so that a kill costs little.
    """
    fingerprint = judge.provenance.fingerprint
    if fingerprint is None or not judge.is_model or judge.reads_peers:
        logits = judge.logits(pairs)
        return expit(logits), judge.calibration(logits)
    names = f"{fingerprint} uncalibrated", fingerprint
    before, after = (cache.get_many(name, pairs) for name in names)
    missing = np.flatnonzero(np.isnan(before) | np.isnan(after)).tolist()
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        todo = [pairs[i] for i in chunk]
        logits = judge.logits(todo)
        before[chunk], after[chunk] = expit(logits), judge.calibration(logits)
        for name, scores in zip(names, (before, after), strict=True):
            cache.put_many(name, todo, scores[chunk])
    return before, after


def as_json(value: Any) -> Any:
    """Convert to what JSON can hold: NaN to null, tuples to lists."""
    if isinstance(value, Mapping):
        return {name: as_json(v) for name, v in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a report whose estimates are ``[value, low, high]``."""
    write_atomic(path, json.dumps(as_json(value), indent=1))
