"""Judges x traces: how well judges do on stores that they were not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.files import write_atomic
from deepprune.core.statistics import Estimate
from deepprune.core.types import TracePair
from deepprune.data.cells import CROSS_MODEL
from deepprune.judge.base import Judge
from deepprune.judge.measure.bootstrap import QuestionDraws, estimate
from deepprune.judge.measure.metrics import METRICS, current_name
from deepprune.judge.measure.report import as_json
from deepprune.judge.measure.scored_pairs import UNFINISHED, PairScores
from deepprune.judge.score_cache import ScoreCache
from deepprune.judge.scoring import cached_scores

MatrixRow = dict[str, Any]
"""A judge in a cell: facts of the cell, ``metrics`` by name and, unless it is a baseline,
``minus``: baseline -> metric -> the paired difference."""


@dataclass(frozen=True, slots=True)
class CellFacts:
    """The cell of a row.

    Attributes:
        store: The store, as the user named it.
        dataset: The data set.
        model: The model, or ``cross-model``.
        prefix_kind: The rule of the prefixes.
        prefix_len: Its length.
        prefix_rule: The rule in full.
        n_questions_seen: Questions that are excluded because a judge was trained on them.
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
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def name(self) -> str:
        """Short name for tables and figures."""
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
) -> list[MatrixRow]:
    """Score the pairs of a cell with every judge, and report each metric with its interval.

    All judges are measured on the same draws of questions, so differences are paired.

    Args:
        facts: Which cell it is.
        pairs: Labelled pairs; without any there are no rows.
        judges: Judges that are reported.
        baselines: Judges that these are compared with.
        seed: Seed of the bootstrap.
        cache: Scores on disk.
        on_judge: Called after each judge.
    """
    measures = {}
    draws: QuestionDraws | None = None
    for name, judge in {**baselines, **judges}.items() if pairs else ():
        scored = PairScores.of(pairs, cached_scores(judge, cache, pairs))
        # Across models a question is one group, whichever models a pair is of.
        scored = replace(scored, model=np.full(len(pairs), facts.model))
        draws = draws or QuestionDraws(scored.question, seed)
        measures[name] = draws.measure(scored)
        on_judge()
    rows = []
    for name in (*judges, *baselines) if pairs else ():
        mine = measures[name]
        row = {
            **asdict(facts),
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
_COUNTS = ("n_questions", "n_pairs", f"n_pairs{UNFINISHED}")
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
