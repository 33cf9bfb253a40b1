"""Estimates of judge metrics on parts of the test pairs, and reports as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.files import write_atomic
from deepprune.core.statistics import Estimate
from deepprune.core.types import TracePair
from deepprune.judge.measure.bootstrap import QuestionDraws
from deepprune.judge.measure.scored_pairs import PairScores


def estimates_by_part(
    pairs: Sequence[TracePair], scored: PairScores, draws: QuestionDraws
) -> dict[str, dict[str, Estimate]]:
    """Measure ``all`` pairs and, where there are several, each ``model=`` and ``dataset=``."""
    parts = {"all": draws.estimates(scored)}
    datasets = np.array([pair.first.trace.question.dataset for pair in pairs], dtype=str)
    for kind, of_pair in (("model", scored.model), ("dataset", datasets)):
        names = sorted(set(of_pair.tolist()))
        for name in names if len(names) > 1 else ():
            parts[f"{kind}={name}"] = draws.estimates(scored.select(of_pair == name))
    return parts


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
