"""Judges x traces: what judges are worth on stores that they were not trained on.

P: pairs, R: draws of the bootstrap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.files import write_atomic
from deepprune.core.protocols import BoolArray, FloatArray
from deepprune.core.statistics import N_DRAWS, Estimate
from deepprune.core.types import TracePair
from deepprune.data.cells import CROSS_MODEL
from deepprune.data.pairs import labels_of, questions_of
from deepprune.judge.base import Judge
from deepprune.judge.measure.bootstrap import bootstrap_draws, interval
from deepprune.judge.measure.metrics import current_name, judge_metrics
from deepprune.judge.measure.scored_pairs import UNFINISHED
from deepprune.judge.score_cache import ScoreCache
from deepprune.judge.scoring import cached_scores

METRICS = ("auroc_within", "auroc", "tnr_at_fnr_20", "ece", "brier")
COMPARED = ("auroc_within", "auroc", "tnr_at_fnr_20")
"""Metrics of which a judge's difference to each baseline is reported."""

_CHUNK = 2048  # pairs that are scored before they are recorded

Row = dict[str, Any]
"""A judge in a cell: facts of the cell, ``metrics`` by name, and of a judge that is no baseline
``minus``: baseline -> metric -> the paired difference."""


@dataclass(frozen=True, slots=True)
class CellFacts:
    """What a row says of its cell.

    Attributes:
        store: The store, as the user named it.
        dataset: The data set.
        model: The model, or ``cross-model``.
        prefix_kind: The rule of the prefixes.
        prefix_len: Its length.
        prefix_rule: The rule in full.
        n_questions_seen: Questions left out, since a judge was trained on them.
    """

    store: str
    dataset: str
    model: str
    prefix_kind: str
    prefix_len: float
    prefix_rule: str
    n_questions_seen: int

    @classmethod
    def of(cls, row: Row) -> CellFacts:
        """The cell of a row."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def name(self) -> str:
        """Its name for people."""
        store = Path(self.store).stem
        return " ".join(dict.fromkeys((store, self.dataset, self.model)))


def cell_rows(
    facts: CellFacts,
    pairs: Sequence[TracePair],
    judges: Mapping[str, Judge],
    baselines: Mapping[str, Judge],
    *,
    seed: int,
    cache: ScoreCache | None = None,
    on_judge: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Score the pairs of a cell by all, and report every metric with its interval.

    Intervals are of a bootstrap over questions. All judges see the same draws, so the interval of a
    difference is that of the paired difference.

    Args:
        facts: Which cell it is.
        pairs: Labelled pairs; without any there are no rows.
        judges: What is reported.
        baselines: What it is compared with.
        seed: Seed of the bootstrap.
        cache: Scores on disk.
        on_judge: Called when one of them is done.
    """
    if not pairs:
        return []
    unfinished = np.array([pair.is_unfinished for pair in pairs], dtype=np.bool_)
    parts = {"": np.ones(len(pairs), dtype=np.bool_), UNFINISHED: unfinished}
    labels, questions = labels_of(pairs), np.array(questions_of(pairs))

    values: dict[str, dict[str, float]] = {}
    draws: dict[str, dict[str, FloatArray]] = {}
    for name, judge in {**baselines, **judges}.items():
        scores = _scores(judge, pairs, cache)
        values[name], draws[name] = {}, {}
        for suffix, part in parts.items():
            measured = scores[part], labels[part], questions[part]
            found = judge_metrics(*measured)
            for metric in METRICS:
                values[name][metric + suffix] = found[metric]
                draws[name][metric + suffix] = bootstrap_draws(
                    metric, *measured, n=N_DRAWS, seed=seed
                )
        on_judge()

    cell = {
        **asdict(facts),
        "is_cross_model": facts.model == CROSS_MODEL,
        **_counts(labels, questions, unfinished),
    }
    rows = []
    for name in (*judges, *baselines):
        row = {**cell, "judge": name, "is_baseline": name in baselines}
        row["metrics"] = {
            metric: Estimate(value, *interval(draws[name][metric]))
            for metric, value in values[name].items()
        }
        if name in judges:
            row["minus"] = {
                baseline: {
                    metric: Estimate(
                        values[name][metric] - values[baseline][metric],
                        *interval(draws[name][metric] - draws[baseline][metric]),
                    )
                    for metric in (m + suffix for suffix in parts for m in COMPARED)
                }
                for baseline in baselines
            }
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write ``matrix.jsonl``, a row a line: an estimate as [value, low, high], NaN as null."""
    write_atomic(path, "".join(json.dumps(plain(row)) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """What ``write_rows`` wrote; nothing where there is no file."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for row in rows:
        row["metrics"] = _estimates(row["metrics"])
        if "minus" in row:
            row["minus"] = {name: _estimates(metrics) for name, metrics in row["minus"].items()}
    return rows


def plain(value: Any) -> Any:
    """The value as JSON has it: NaN becomes null, a tuple a list."""
    if isinstance(value, Mapping):
        return {name: plain(v) for name, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _estimates(metrics: Mapping[str, Sequence[float | None]]) -> dict[str, Estimate]:
    return {
        current_name(name): Estimate(*(float("nan") if v is None else v for v in values))
        for name, values in metrics.items()
    }


def _scores(judge: Judge, pairs: Sequence[TracePair], cache: ScoreCache | None) -> FloatArray:
    """Scores; a neural network's are recorded a chunk at a time, so that a kill costs little."""
    size = _CHUNK if judge.is_model and cache is not None else max(1, len(pairs))
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return np.concatenate([np.zeros(0), *(cached_scores(judge, cache, chunk) for chunk in chunks)])


def _counts(labels: Any, questions: Any, unfinished: BoolArray) -> dict[str, Any]:
    def share(part: BoolArray) -> float:
        return float(labels[part].mean()) if part.any() else float("nan")

    return {
        "n_questions": len(set(questions.tolist())),
        "n_pairs": len(labels),
        "n_pairs_unfinished": int(unfinished.sum()),
        "same_share": share(np.ones_like(unfinished)),
        "same_share_unfinished": share(unfinished),
    }
