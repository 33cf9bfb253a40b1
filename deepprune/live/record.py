"""Run folder of ``deepprune prune``: results and traces, and how a run resumes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepprune.answers import EquivalenceChecker
from deepprune.answers.classes import AnswerNumbers
from deepprune.core.errors import InputError
from deepprune.core.files import write_atomic
from deepprune.core.types import ForcedAnswer, Question, QuestionRef, Trace
from deepprune.evaluation.outcomes import OLD_NAMES
from deepprune.generation.collector import generated_store
from deepprune.generation.live import LiveEngine
from deepprune.live.pruner import Pruned
from deepprune.live.question import LiveResult
from deepprune.live.view import one_line
from deepprune.traces import TraceStore
from deepprune.traces.manifest import MANIFEST

RESULTS, PENDING = "results.jsonl", "pending.json"
TRACES, UNDECIDED = "traces", "undecided"


class LiveRecord:
    """Results by question, and the traces of decided and undecided questions.

    ``traces`` has those of decided questions, so that it can be replayed as it is; ``undecided``
    those of questions that failed or were interrupted. The row of a decided question waits in
    ``pending.json`` while its traces are stored: after a crash in between it is complete if the
    store has them.

    Attributes:
        folder: The run folder.
        questions: All questions of the run.
        said: A sentence about what was stored last.
    """

    def __init__(
        self, folder: Path, engine: LiveEngine | None, questions: Sequence[Question]
    ) -> None:
        self.folder = folder
        self.questions = questions
        self.said = "nothing was generated"
        self._engine = engine
        path = folder / RESULTS
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        rows = [_row(line) for line in lines if line]
        self._rows: dict[tuple[str, str], LiveResult] = {_key(row): row for row in rows}
        if (pending := folder / PENDING).exists():
            row = _row(pending.read_bytes())
            path = folder / TRACES
            if (path / MANIFEST).exists() and _find(TraceStore.open(path), _key(row)) is not None:
                self._write_row(row)
            pending.unlink(missing_ok=True)

    def is_decided(self, question: Question) -> bool:
        row = self._rows.get(question.key)
        return row is not None and row["status"] == "ok"

    @property
    def rows(self) -> list[LiveResult]:
        """Recorded results, in the order of the questions."""
        return [self._rows[q.key] for q in self.questions if q.key in self._rows]

    def check_model(self, model: str) -> None:
        """Check that what is recorded is of this model.

        Raises:
            InputError: If it is of another one.
        """
        if others := sorted({row["model"] for row in self.rows} - {model}):
            raise InputError(
                f"{self.folder} has results of {others[0]!r}, but the engine serves {model!r}: "
                "resume with the same model, or choose another hydra.run.dir."
            )

    def mean_length(self, prior: float) -> float:
        """Return the expected tokens of a trace of the next question.

        ``(prior + tokens) / (1 + ended)`` over the decided questions: tokens of all traces, and
        traces that ended by themselves. A mean over the latter alone would be too low, since short
        traces end first.
        """
        rows = [row for row in self.rows if row["status"] == "ok"]
        tokens = sum(row["tokens"] - row["tokens_forced"] for row in rows)
        return float((prior + tokens) / (1 + sum(row["n_finished"] for row in rows)))

    def write(self, done: Pruned) -> None:
        """Store the traces, then the row: the store has the traces of every row."""
        pending = self.folder / PENDING
        if done.traces and self._engine is not None:
            name = UNDECIDED
            if done.row["status"] == "ok":
                name = TRACES
                write_atomic(pending, json.dumps(done.row, ensure_ascii=False))
            self._append(self.folder / name, done.traces)
            self.said = (
                f"{len(done.traces)} traces of {one_line(done.row['question_id'])} are in "
                f"{self.folder / name}"
            )
        self._write_row(done.row)
        pending.unlink(missing_ok=True)

    def _write_row(self, row: LiveResult) -> None:
        self._rows[_key(row)] = row
        lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in self.rows]
        write_atomic(self.folder / RESULTS, "".join(lines))

    def _append(self, path: Path, traces: Sequence[Trace]) -> None:
        assert self._engine is not None
        store = generated_store(path, self._engine, {"collected_by": "deepprune prune"})
        ref = _find(store, traces[0].question.key)
        if ref is not None:  # of an earlier start that was interrupted
            traces = _renumbered(traces, store.group(ref).traces, self._engine.checker)
        store.append(traces)


def recorded_lengths(store: TraceStore) -> dict[tuple[str, str], float]:
    """Return the mean lengths by which a live run decided whose traces these are, by question."""
    path = store.path.parent / RESULTS
    if store.path.name != TRACES or not path.exists():
        return {}
    rows = map(_row, path.read_bytes().splitlines())
    return {_key(row): row["mean_length"] for row in rows if row.get("mean_length") is not None}


def _row(line: bytes) -> LiveResult:
    """Read a recorded row, also of version 0.1."""
    row: LiveResult = json.loads(line)
    for name, old in OLD_NAMES.items():
        if old in row:
            row[name] = row.pop(old)
    return row


def _find(store: TraceStore, question: tuple[str, str]) -> QuestionRef | None:
    """Find a question in a store of one model."""
    refs = store.refs() if store.manifest.parts else []
    return next((ref for ref in refs if ref.question.key == question), None)


def _renumbered(
    traces: Sequence[Trace], stored: Sequence[Trace], checker: EquivalenceChecker
) -> list[Trace]:
    """Continue the numbers of stored samples and answer classes in traces of the same question."""
    said: list[Trace | ForcedAnswer] = [*stored]
    for trace in stored:
        said += trace.forced_answers
    known = {one.answer: one.answer_class for one in said if one.answer is not None}
    number = AnswerNumbers(checker, known).number
    return [
        replace(
            trace,
            sample_id=len(stored) + trace.sample_id,
            answer_class=number(trace.answer),
            forced_answers=tuple(
                replace(p, answer_class=number(p.answer)) for p in trace.forced_answers
            ),
        )
        for trace in traces
    ]


def _key(row: LiveResult) -> tuple[str, str]:
    return row["dataset"], row["question_id"]
