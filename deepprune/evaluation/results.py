"""The record of a sweep on disk: outcomes as they come, rows when all are there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepprune.evaluation.ledger import Bill
from deepprune.evaluation.statistics import Estimate
from deepprune.files import write_atomic

Row = dict[str, Any]
"""One line of ``results.jsonl``; `evaluation.metrics.sweep_rows` says what is in it."""


@dataclass(frozen=True, slots=True)
class PointOutcome:
    """One point on one question, a list entry for each order of the traces.

    ``failure`` says why the point failed here; its lists are then empty.
    """

    is_correct: list[bool]
    any_correct: list[bool]
    tokens_finished: list[int]
    tokens_pruned: list[int]
    tokens_probes: list[int]
    generator_flops: list[float]
    judge_calls: list[int]
    judge_tokens: list[int]
    judge_flops: list[float]
    seconds: list[float]
    failure: str | None = None

    @classmethod
    def of(
        cls, is_correct: list[bool], any_correct: list[bool], bills: Sequence[Bill]
    ) -> PointOutcome:
        """Collect the bills of a point."""
        return cls(
            is_correct,
            any_correct,
            [b.tokens_finished for b in bills],
            [b.tokens_pruned for b in bills],
            [b.tokens_probes for b in bills],
            [b.generator_flops for b in bills],
            [b.judge.calls for b in bills],
            [b.judge.tokens for b in bills],
            [b.judge.flops for b in bills],
            [b.seconds for b in bills],
        )

    @classmethod
    def failed(cls, reason: str) -> PointOutcome:
        """A point that could not be measured on a question."""
        return cls([], [], [], [], [], [], [], [], [], [], reason)


QuestionKey = tuple[str, str, str]
"""Dataset, question id, model."""


class OutcomeLog:
    """``outcomes.jsonl``: one line a question, appended and synced before it counts.

    A line that a kill cut short is dropped, and its question is done again; so is a question on
    which a point failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[QuestionKey, dict[str, PointOutcome]] = {}
        if path.exists():
            whole = [line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")]
            for line in whole:
                entry = json.loads(line)
                points = {k: PointOutcome(**v) for k, v in entry["points"].items()}
                if all(p.failure is None for p in points.values()):
                    self.outcomes[tuple(entry["question"])] = points
            write_atomic(path, b"".join(whole))

    def append(self, question: QuestionKey, points: Mapping[str, PointOutcome]) -> None:
        """Record a question."""
        entry = {"question": question, "points": {k: asdict(v) for k, v in points.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.outcomes[question] = dict(points)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write ``results.jsonl``, at once and whole."""
    write_atomic(path, b"".join(json.dumps(plain(r)).encode() + b"\n" for r in rows))


def plain(row: Row) -> Row:
    """Estimates spelt out as three columns."""
    plain: Row = {}
    for name, value in row.items():
        if isinstance(value, Estimate):
            plain |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            plain[name] = value
    return plain
