"""The run folder of ``deepprune prune``: what is stored, in which order, what survives a crash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepprune.engines.live import LiveEngine
from deepprune.evaluation.live import Pruned
from deepprune.evaluation.results import Row
from deepprune.files import write_atomic
from deepprune.report.live_view import plain
from deepprune.traces import TraceStore
from deepprune.traces.manifest import MANIFEST
from deepprune.types import Question, Trace

RESULTS, PENDING = "results.jsonl", "pending.json"
TRACES, UNDECIDED = "traces", "undecided"


class LiveRecord:
    """The run folder: results by question, traces, and what came of questions that were cut.

    ``traces`` has the questions that are decided, so that it can be replayed as it is;
    ``undecided`` what was generated for those that failed or were interrupted. The row of a decided
    question waits in ``pending.json`` while its traces are stored: after a crash in between, the
    store says whether it counts.

    Attributes:
        folder: The run folder.
        questions: What is asked.
        said: What was stored last, in words.
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
        rows = [json.loads(line) for line in lines if line]
        self._rows: dict[tuple[str, str], Row] = {_key(row): row for row in rows}
        if (pending := folder / PENDING).exists():
            row = json.loads(pending.read_bytes())
            if (*_key(row), row["model"]) in _stored(folder / TRACES):
                self._write_row(row)
            pending.unlink(missing_ok=True)

    def is_decided(self, question: Question) -> bool:
        """Whether an earlier start has decided it."""
        row = self._rows.get((question.dataset, question.question_id))
        return row is not None and row["status"] == "ok"

    @property
    def rows(self) -> list[Row]:
        """What is on record, in the order of the questions."""
        keys = [(q.dataset, q.question_id) for q in self.questions]
        return [self._rows[key] for key in keys if key in self._rows]

    def write(self, done: Pruned) -> None:
        """Store the traces, then the row: what is in the results is in the store."""
        pending = self.folder / PENDING
        if done.traces and self._engine is not None:
            name = UNDECIDED
            if done.row["status"] == "ok":
                name = TRACES
                write_atomic(pending, json.dumps(done.row, ensure_ascii=False))
            self._append(self.folder / name, done.traces)
            self.said = (
                f"{len(done.traces)} traces of {plain(done.row['question_id'])} are in "
                f"{self.folder / name}"
            )
        self._write_row(done.row)
        pending.unlink(missing_ok=True)

    def _write_row(self, row: Row) -> None:
        self._rows[_key(row)] = row
        lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in self.rows]
        write_atomic(self.folder / RESULTS, "".join(lines))

    def _append(self, path: Path, traces: Sequence[Trace]) -> None:
        assert self._engine is not None
        if (path / MANIFEST).exists():
            store = TraceStore.open(path)
        else:
            store = TraceStore.create(
                path,
                token_counter=self._engine.token_counter,
                answers=self._engine.prompt.answer_style,
                sampling=self._engine.facts(),
                provenance={"collected_by": "deepprune prune"},
            )
        key = (traces[0].question.dataset, traces[0].question.question_id, traces[0].model)
        first = _stored(path).get(key, 0)  # of an earlier start that did not come to its end
        store.append(replace(trace, sample_id=first + trace.sample_id) for trace in traces)


def _stored(path: Path) -> dict[tuple[str, str, str], int]:
    """How many traces of each dataset, question and model are in a store, where there is one."""
    if not (path / MANIFEST).exists():
        return {}
    store = TraceStore.open(path)
    return {ref.key: ref.n_traces for ref in store.refs()} if store.manifest.parts else {}


def _key(row: Row) -> tuple[str, str]:
    return row["dataset"], row["question_id"]
