"""The record of a sweep on disk: the outcomes of each question, and at the end the rows."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepprune.core.files import read_lines, write_atomic
from deepprune.core.protocols import IntArray
from deepprune.core.statistics import Estimate
from deepprune.evaluation.grid import Point

QuestionKey = tuple[str, str, str]
"""Dataset, question id, model."""

FIELDS: dict[str, Any] = {
    "is_correct": np.bool_,
    "any_correct": np.bool_,
    "tokens_finished": np.int64,
    "tokens_pruned": np.int64,
    "tokens_forced": np.int64,
    "tokens_sequential": np.int64,
    "latency": np.float64,
    "peak_traces": np.int32,
    "generator_flops": np.float64,
    "judge_calls": np.int32,
    "judge_tokens": np.int64,
    "judge_flops": np.float64,
    "judge_seconds": np.float64,
    "engine_seconds": np.float64,
    "cost": np.float64,
}
"""Name and dtype of what is recorded for every point and order of the traces."""

RESULTS, QUESTIONS, OUTCOMES = "results.jsonl", "questions.jsonl", "outcomes"

OLD_NAMES = {"tokens_forced": "tokens_probes"}
"""Names in the ``outcomes/`` and ``results.jsonl`` of version 0.1, which are read."""


_CURRENT = {old: name for name, old in OLD_NAMES.items()}

FACTS = ("n_questions", "resamples", "seed", "margin", "engine_steps")
METRICS = ("pass_any", "accuracy", "token_saving", "net_saving")
"""Estimates of a `Row`, beside those named ``THIS_vs_THAT``."""


@dataclass(slots=True)
class QuestionOutcomes:
    """The outcomes of all points on one question.

    Attributes:
        fields: For each name of `FIELDS` an array over points and orders, shape ``(P, R)``.
        tokens_prompt: Tokens of the question's text.
        failures: Point number -> why it failed here.
        skipped: Numbers of points that were skipped here; their fields are zeros.
        events: Watched checkpoints and decisions: point number, name of the hook of `Watcher`,
            its arguments. They are not recorded.
    """

    fields: dict[str, NDArray[Any]]
    tokens_prompt: int
    failures: dict[int, str] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    events: list[tuple[int, str, tuple[object, ...]]] = field(default_factory=list)


class OutcomeStore:
    """The folder ``outcomes``: one file per question, written atomically.

    A file holds arrays without pickles and the hash of its grid: a file of another grid counts as
    missing. A question on which a point failed is evaluated again when the sweep resumes.

    Args:
        folder: Where the files are.
        points: The grid.
    """

    def __init__(self, folder: Path, points: Sequence[Point]) -> None:
        self.folder = folder
        keys = "\n".join(point.key for point in points)
        self._grid = hashlib.sha256(keys.encode()).hexdigest()

    def has(self, question: QuestionKey, skip: Collection[int] = ()) -> bool:
        """Return whether a question is recorded without failures at all points but ``skip``."""
        try:
            recorded = self.read(question, FIELDS)
            return not recorded.failures and recorded.skipped <= set(skip)
        except Exception:  # missing or incomplete: zipfile and numpy raise many kinds
            return False

    def write(self, question: QuestionKey, outcomes: QuestionOutcomes) -> None:
        buffer = io.BytesIO()
        facts = {
            "question": question,
            "failures": outcomes.failures,
            "skipped": sorted(outcomes.skipped),
            "grid": self._grid,
        }
        arrays: dict[str, Any] = {
            "facts": np.array(json.dumps(facts)),
            "tokens_prompt": np.array(outcomes.tokens_prompt),
            **outcomes.fields,
        }
        np.savez(buffer, **arrays)
        write_atomic(self._path(question), buffer.getvalue())

    def read(self, question: QuestionKey, names: Collection[str] = ()) -> QuestionOutcomes:
        """Read the named fields of a recorded question."""
        # numpy leaves a file that is no archive open, so it is opened here
        with self._path(question).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            facts = json.loads(file["facts"].item())
            if facts["grid"] != self._grid:
                raise ValueError(f"{question} is recorded on another grid.")
            return QuestionOutcomes(
                {n: file[n if n in file else OLD_NAMES.get(n, n)] for n in names},
                int(file["tokens_prompt"]),
                {int(point): reason for point, reason in facts["failures"].items()},
                frozenset(facts["skipped"]),
            )

    def _path(self, question: QuestionKey) -> Path:
        name = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:20]
        return self.folder / f"{name}.npz"


class Outcomes:
    """All recorded questions, read field by field: ``outcomes["cost"]`` has shape ``(Q, R, P)``.

    Attributes:
        points: The grid.
        questions: The questions, in the order of the first axis.
        dropped: Point number -> why it was dropped before the last question.
        failures: Point number -> why it failed on some question.
        tokens_prompt: Tokens of the questions' texts, shape ``(Q,)``.
    """

    def __init__(
        self,
        store: OutcomeStore,
        points: Sequence[Point],
        questions: Sequence[QuestionKey],
        dropped: Mapping[int, str] | None = None,
    ) -> None:
        self._store = store
        self._kept: IntArray = np.arange(len(points))
        self.points = points
        self.questions = questions
        self.dropped = dict(dropped or {})
        facts = [store.read(question) for question in questions]
        self.tokens_prompt: IntArray = np.array([f.tokens_prompt for f in facts], dtype=np.int64)
        self.failures: dict[int, str] = {}
        for fact in facts:
            self.failures = fact.failures | self.failures  # the first question's reason stays

    def __getitem__(self, name: str) -> NDArray[Any]:
        reads = (self._store.read(question, [name]) for question in self.questions)
        fields = np.stack([read.fields[name][self._kept] for read in reads])
        return np.ascontiguousarray(fields.transpose(0, 2, 1))

    def only(self, numbers: Sequence[int]) -> Outcomes:
        """Return the outcomes of some of the points, in this order."""
        some = copy(self)
        some._kept = self._kept[list(numbers)]
        some.points = [self.points[i] for i in numbers]
        for name in ("dropped", "failures"):
            lost = getattr(self, name)
            setattr(some, name, {n: lost[i] for n, i in enumerate(numbers) if i in lost})
        return some

    def by_question(self, points: Mapping[str, int]) -> list[dict[str, Any]]:
        """Return a row per question: how often each point is right, and its tokens, over orders.

        Args:
            points: Numbers of points, by the NAME in their columns ``NAME_right``, ``NAME_tokens``.
        """
        some = self.only(list(points.values()))
        right = some["is_correct"].mean(axis=1)
        kinds = ("tokens_finished", "tokens_pruned", "tokens_forced")
        tokens = np.sum([some[kind].mean(axis=1) for kind in kinds], axis=0)
        names = ("dataset", "question", "model")
        rows: list[dict[str, Any]] = [dict(zip(names, key, strict=True)) for key in self.questions]
        for i, name in enumerate(points):
            for row, is_right, n in zip(rows, right[:, i], tokens[:, i], strict=True):
                row |= {f"{name}_right": float(is_right), f"{name}_tokens": float(n)}
        return rows


@dataclass(frozen=True)
class Row:
    """The result of one grid point; `docs/measures.md` lists the names.

    Attributes:
        policy: Name of the policy.
        axes: Fields of the policy, ``judge`` and ``n_traces``.
        facts: Facts of the whole sweep: ``n_questions``, ``resamples``, ``seed``, ``margin``,
            ``engine_steps``.
        metrics: Estimates with intervals; ``None`` if a comparison is with itself or undefined.
        counts: Means per question, p-values and other plain numbers.
        status: ``ok``, ``failed`` or ``dropped``; without ``ok`` there are no metrics and counts.
        reason: Why it failed or was dropped.
    """

    policy: str
    axes: Mapping[str, Any]
    facts: Mapping[str, Any]
    metrics: dict[str, Estimate | None] = field(default_factory=dict)
    counts: dict[str, float | None] = field(default_factory=dict)
    status: str = "ok"
    reason: str | None = None

    @property
    def judge(self) -> str | None:
        """Name of the judge; ``None`` for a policy that asks none."""
        return self.axes["judge"]  # type: ignore[no-any-return]

    @property
    def accuracy(self) -> Estimate:
        """The accuracy of a point with status ``ok``."""
        accuracy = self.metrics["accuracy"]
        assert accuracy is not None
        return accuracy

    def count(self, name: str) -> float:
        """Return a count that every point with status ``ok`` has."""
        count = self.counts[name]
        assert count is not None, name
        return count

    @property
    def columns(self) -> dict[str, Any]:
        """The line of ``results.jsonl``: an estimate is three columns."""
        columns: dict[str, Any] = {"policy": self.policy, **self.axes, **self.facts}
        for name, estimate in self.metrics.items():
            columns[name] = None if estimate is None else estimate.value
            if estimate is not None:
                columns |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return columns | self.counts | {"status": self.status, "reason": self.reason}

    @classmethod
    def read(cls, columns: Mapping[str, Any]) -> Row:
        """Return the row that a line of ``results.jsonl`` was written from, of 0.1 as well."""
        ends = ("_low", "_high")
        axes: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        end = {"status": columns["status"], "reason": columns.get("reason")}
        row = cls(columns["policy"], axes, facts, **end)
        for name, value in columns.items():
            if name in ("policy", "status", "reason") or name.endswith(ends):
                continue
            if name in FACTS:
                facts[name] = value
            elif name in METRICS or "_vs_" in name:
                known = value is not None
                found = Estimate(value, *(columns[name + e] for e in ends)) if known else None
                row.metrics[name] = found
            elif row.metrics:  # the columns of axes come first
                row.counts[_CURRENT.get(name, name)] = value
            else:
                axes[name] = value
        return row


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the lines of ``results.jsonl`` in one step."""
    write_atomic(path, b"".join(json.dumps(row.columns).encode() + b"\n" for row in rows))


def read_rows(folder: Path) -> list[Row]:
    """Read the ``results.jsonl`` of a sweep; none where it is missing, or of another command."""
    return [Row.read(line) for line in read_lines(folder / RESULTS) if "policy" in line]
