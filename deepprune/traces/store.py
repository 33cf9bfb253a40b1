"""An append-only folder of recorded traces: Parquet parts and a manifest with their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.types import Question, QuestionRef, QuestionTraces, Trace
from deepprune.traces.index import GroupKey, IndexRow, StoreIndex
from deepprune.traces.manifest import Manifest, check_free, read_manifest
from deepprune.traces.parts import PartReader, group_key, write_part
from deepprune.traces.schema import SCHEMA_VERSION, check_trace, from_table


class TraceStore:
    """Recorded traces in a folder.

    ``part-NNNNN.parquet`` files are written once and never changed; ``manifest.json`` says which of
    them belong to the store. A part that a crash left outside the manifest is ignored, and the next
    append takes its name. One process appends at a time; any number may read.

    >>> from deepprune.traces import open_traces
    >>> len(open_traces("pool").load(limit_questions=3))
    3
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.manifest = manifest
        self._readers: dict[str, PartReader] = {}
        self._row_groups: dict[int, tuple[int, list[Trace]]] = {}  # part -> number, traces

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        token_counter: str,
        answers: str,
        sampling: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> TraceStore:
        """Make an empty store.

        Args:
            path: The folder; it may exist if nothing but a README.md is in it.
            token_counter: ``generator``, or the name of the tokenizer that counted afterwards.
            answers: The style by which the answers are extracted, or ``source``.
            sampling: Sampling parameters, for the manifest.
            provenance: Where the traces come from, for the manifest.

        Raises:
            InputError: If something else is there already.
        """
        path = Path(path)
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(
            token_counter=token_counter,
            answers=answers,
            sampling=dict(sampling or {}),
            provenance=dict(provenance or {}),
        )
        manifest.write(path)
        return cls(path, manifest)

    @classmethod
    def open(cls, path: Path | str) -> TraceStore:
        """Open the store in a folder; its parts are read when they are first needed.

        Raises:
            InputError: If there is no store, or a newer version wrote it.
        """
        path = Path(path)
        return cls(path, read_manifest(path))

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        """Another process opens the folder itself."""
        return TraceStore.open, (self.path.absolute(),)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the hashes of the parts: the identity of the contents."""
        return self.manifest.content_hash

    @property
    def models(self) -> list[str]:
        """The models that generated the traces, sorted."""
        return sorted({key.model for key in self._index.groups})

    @property
    def datasets(self) -> list[str]:
        """The datasets that the questions come from, sorted."""
        return sorted({key.dataset for key in self._index.groups})

    def append(self, traces: Iterable[Trace], *, conflicts: int = 0, timeouts: int = 0) -> None:
        """Add traces as one new part; afterwards they are on disk, or nothing has changed.

        Args:
            traces: The traces, in any order. Answer classes are the caller's: those of a question
                that is in the store already must go on with its numbering.
            conflicts: Conflicts of the answer classes, added to the manifest's count.
            timeouts: Timeouts of the answer comparison, added to the manifest's count.

        Raises:
            InputError: If a trace breaks a rule of the schema, or is there already.
        """
        rows = sorted(traces, key=lambda trace: (group_key(trace), trace.sample_id))
        if not rows:
            return
        for trace in rows:
            check_trace(trace)
        index_rows = [
            IndexRow(group_key(t), t.sample_id, t.question.text, t.question.gold) for t in rows
        ]
        self._index.check(index_rows)
        if read_manifest(self.path).content_hash != self.content_hash:
            raise InputError(
                f"{str(self.path)!r} was appended to by another process. Open it again first."
            )
        number = len(self.manifest.parts)
        manifest = self.manifest
        facts = {
            "deepprune.token_counter": manifest.token_counter,
            "deepprune.answers": manifest.answers,
        }
        part = write_part(self.path / f"part-{number:05d}.parquet", rows, facts)
        names = self._index.questions.keys() | {row.key[:2] for row in index_rows}
        manifest = replace(
            manifest,
            n_questions=len(names),
            n_traces=manifest.n_traces + part.rows,
            n_tokens=manifest.n_tokens + sum(t.n_tokens for t in rows),
            n_without_text=manifest.n_without_text + sum(not t.text for t in rows),
            conflicts=manifest.conflicts + conflicts,
            timeouts=manifest.timeouts + timeouts,
            parts=(*manifest.parts, part),
            schema_version=SCHEMA_VERSION,
        )
        manifest.write(self.path)
        self.manifest = manifest
        self._index.add(number, index_rows)

    def load(
        self,
        models: Iterable[str] | None = None,
        datasets: Iterable[str] | None = None,
        min_traces: int = 1,
        limit_questions: int | None = None,
    ) -> list[QuestionTraces]:
        """All wanted traces, grouped; see `iterate`."""
        return list(self.iterate(models, datasets, min_traces, limit_questions))

    def iterate(
        self,
        models: Iterable[str] | None = None,
        datasets: Iterable[str] | None = None,
        min_traces: int = 1,
        limit_questions: int | None = None,
    ) -> Iterator[QuestionTraces]:
        """The wanted traces, one question and model at a time, read as they are asked for.

        The order is that of (dataset, question_id, model), and of sample_id within; it does not
        depend on how the traces were spread over appends.

        Args:
            models: Only these models.
            datasets: Only these datasets.
            min_traces: Leave out a question of a model with fewer traces.
            limit_questions: Only the first so many questions of what the other filters leave.

        Raises:
            InputError: If a name is unknown, nothing is left, or a part cannot be read.
        """
        keys = self._index.select(models, datasets, min_traces, limit_questions)
        return map(self._group, keys)

    def refs(
        self, models: Iterable[str] | None = None, datasets: Iterable[str] | None = None
    ) -> list[QuestionRef]:
        """What `iterate` would yield, without reading any traces; `group` reads them."""
        refs = []
        for key in self._index.select(models, datasets, 1, None):
            text, gold = self._index.questions[key.dataset, key.question_id]
            question = Question(key.dataset, key.question_id, text, gold)
            refs.append(QuestionRef(question, key.model, len(self._index.samples[key])))
        return refs

    def group(self, ref: QuestionRef) -> QuestionTraces:
        """The traces of one question and model."""
        return self._group(GroupKey(*ref.key))

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all traces, for statistics; the order is that of the parts."""
        return pa.concat_tables(self._reader(i).columns(names) for i in range(self._n_parts))

    def check(self) -> list[str]:
        """Read everything and compare it with the manifest.

        Returns:
            What is wrong, one sentence each; empty for a sound store.
        """
        problems: list[str] = []
        index = StoreIndex()
        n_tokens = 0
        for number, part in enumerate(self.manifest.parts):
            try:
                path = self.path / part.file
                if path.is_file() and sha256_file(path) != part.sha256:
                    problems.append(f"{part.file} is changed: its SHA-256 is not the manifest's.")
                reader = PartReader(self.path, part)
                rows = reader.index_rows()
                if len(rows) != part.rows:
                    problems.append(
                        f"{part.file} has {len(rows)} rows, the manifest says {part.rows}."
                    )
                index.check(rows)
                index.add(number, rows)
                for group in range(reader.n_row_groups):
                    for trace in from_table(reader.row_group(group)):
                        check_trace(trace)
                        n_tokens += trace.n_tokens
            except InputError as error:
                problems.append(str(error))
        if problems:
            return problems
        found = (len(index.questions), sum(map(len, index.samples.values())), n_tokens)
        stated = (self.manifest.n_questions, self.manifest.n_traces, self.manifest.n_tokens)
        if found != stated:
            problems.append(
                "the parts hold {} questions, {} traces, {} tokens, ".format(*found)
                + "the manifest says {}, {}, {}.".format(*stated)
            )
        return problems

    @property
    def _n_parts(self) -> int:
        return len(self.manifest.parts)

    @cached_property
    def _index(self) -> StoreIndex:
        index = StoreIndex()
        for number in range(self._n_parts):
            index.add(number, self._reader(number).index_rows())
        return index

    def _reader(self, number: int) -> PartReader:
        part = self.manifest.parts[number]
        if part.file not in self._readers:
            self._readers[part.file] = PartReader(self.path, part)
        return self._readers[part.file]

    def _group(self, key: GroupKey) -> QuestionTraces:
        traces = [
            trace
            for rows in self._index.groups[key]
            for trace in self._rows(rows.part, rows.start, rows.stop)
        ]
        traces.sort(key=lambda trace: trace.sample_id)
        return QuestionTraces(traces[0].question, key.model, tuple(traces))

    def _rows(self, part: int, start: int, stop: int) -> list[Trace]:
        """Rows of one row group; of each part the row group read last is kept until its end."""
        number, first = self._reader(part).row_group_of(start)
        kept, traces = self._row_groups.pop(part, (-1, []))
        if kept != number:
            traces = from_table(self._reader(part).row_group(number))
        if stop < first + len(traces):
            self._row_groups[part] = (number, traces)
        return traces[start - first : stop - first]
