"""The matrix of judges x traces: judges measured on stores that they were not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepprune.core.files import as_json, write_atomic
from deepprune.core.statistics import Estimate
from deepprune.core.types import TracePair
from deepprune.data.cells import CROSS_MODEL
from deepprune.judge.base import Judge
from deepprune.judge.measure.bootstrap import QuestionDraws, estimate
from deepprune.judge.measure.metrics import METRICS, current_name
from deepprune.judge.measure.scored_pairs import UNFINISHED, PairScores
from deepprune.judge.score_cache import ScoreCache, cached_scores

MatrixRow = dict[str, Any]
"""A judge in a cell: facts of the cell, ``metrics`` by name and, unless it is a baseline,
``minus``: baseline -> metric -> the paired difference."""


class CellFacts(NamedTuple):
    """A cell: a store as the user named it, a data set, a model or ``cross-model``, a prefix rule.

    ``n_questions_seen`` questions are excluded because a judge was trained on them.
    """

    store: str
    dataset: str
    model: str
    prefix_kind: str
    prefix_len: float
    prefix_rule: str
    n_questions_seen: int

    @classmethod
    def of(cls, row: MatrixRow) -> CellFacts:
        return cls(*(row[name] for name in cls._fields))

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        return " ".join(dict.fromkeys((Path(self.store).stem, self.dataset, self.model)))


def cell_rows(
    facts: CellFacts,
    pairs: Sequence[TracePair],
    judges: Mapping[str, Judge],
    baselines: Mapping[str, Judge],
    *,
    seed: int,
    cache: ScoreCache | None = None,
    on_judge: Callable[[], None] = lambda: None,
) -> list[MatrixRow]:
    """Score the labelled pairs of a cell with every judge, and report each metric.

    All judges are measured on the same draws of questions, so the differences between ``judges``
    and ``baselines`` are paired. Without pairs there are no rows. ``on_judge`` is called after each
    judge.
    """
    if not pairs:
        return []
    # Across models a question is one group, whichever models a pair is of.
    unscored = PairScores.of(pairs, np.full(len(pairs), np.nan))
    unscored = unscored._replace(model=np.full(len(pairs), facts.model))
    draws = QuestionDraws(unscored.question, seed)
    measures = {}
    for name, judge in {**baselines, **judges}.items():
        scores = cached_scores(judge, cache, pairs)
        measures[name] = draws.measure(unscored._replace(scores=scores))
        on_judge()
    rows = []
    for name in (*judges, *baselines):
        mine = measures[name]
        row = {
            **facts._asdict(),
            "is_cross_model": facts.model == CROSS_MODEL,
            **{count: int(mine[count][0]) for count in _COUNTS},
            **{share: float(mine[share][0]) for share in _SHARES},
            "judge": name,
            "is_baseline": name in baselines,
            "metrics": {metric: estimate(mine[metric]) for metric in _REPORTED},
        }
        if name in judges:
            row["minus"] = {
                baseline: {m: estimate(mine[m] - measures[baseline][m]) for m in _REPORTED}
                for baseline in baselines
            }
        rows.append(row)
    return rows


_REPORTED = (*METRICS, *(metric + UNFINISHED for metric in METRICS))
_COUNTS = tuple(
    name + suffix
    for name in ("n_questions", "n_questions_both", "n_pairs")
    for suffix in ("", UNFINISHED)
)
_SHARES = ("same_share", f"same_share{UNFINISHED}")


def write_matrix(path: Path, rows: Sequence[MatrixRow]) -> None:
    """Write ``matrix.jsonl``, one row a line: an estimate as [value, low, high], NaN as null."""
    write_atomic(path, "".join(json.dumps(as_json(row)) + "\n" for row in rows))


def read_matrix(path: Path) -> list[MatrixRow]:
    """Read what ``write_matrix`` wrote; nothing where there is no file."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for row in rows:
        row["metrics"] = _estimates(row["metrics"])
        if "minus" in row:
            row["minus"] = {name: _estimates(metrics) for name, metrics in row["minus"].items()}
    return rows


def _estimates(metrics: Mapping[str, Sequence[float | None]]) -> dict[str, Estimate]:
    return {
        current_name(name): Estimate(*(float("nan") if v is None else v for v in values))
        for name, values in metrics.items()
    }
