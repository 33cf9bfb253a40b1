"""An append-only folder of recorded traces: Parquet parts and a manifest with their hashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.types import Question, QuestionRef, QuestionTraces, Trace
from deepprune.traces.index import IndexRow, StoreIndex
from deepprune.traces.manifest import Manifest, check_free, read_manifest
from deepprune.traces.parts import PartReader, write_part
from deepprune.traces.schema import SCHEMA_VERSION, check_trace


class TraceStore:
    """Recorded traces in a folder.

    Files ``part-NNNNN.parquet`` are written once and never changed; ``manifest.json`` lists those
    that belong to the store. A part that is not listed, after a crash, is ignored and overwritten
    by the next append. One process appends at a time; any number may read.

    >>> from deepprune.traces import open_traces
    >>> len(open_traces("pool").load())
    80
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.manifest = manifest
        self._readers: dict[str, PartReader] = {}

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
        """Create an empty store; the arguments are fields of its `Manifest`.

        Raises:
            InputError: If the folder has other contents than a README.md.
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
        """Open the store in a folder; parts are read on first use.

        Raises:
            InputError: If there is no store, or a newer version wrote it.
        """
        path = Path(path)
        return cls(path, read_manifest(path))

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return TraceStore.open, (self.path.absolute(),)

    @property
    def content_hash(self) -> str:
        """Identity of the contents, see `Manifest.content_hash`."""
        return self.manifest.content_hash

    @property
    def models(self) -> list[str]:
        """Names of the models, sorted."""
        return sorted({model for _, _, model in self._index.groups})

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, sorted."""
        return sorted({dataset for dataset, _, _ in self._index.groups})

    def append(self, traces: Iterable[Trace], **counts: Any) -> None:
        """Write traces, in any order, to disk as one new part; arguments as of `append_sorted`."""
        if rows := sorted(traces, key=lambda trace: trace.key):
            self.append_sorted(rows, **counts)

    def append_sorted(
        self,
        traces: Iterable[Trace],
        *,
        conflicts: int = 0,
        timeouts: int = 0,
        timed_out: Sequence[str] = (),
    ) -> None:
        """Write traces to disk as one new part, all or none of them.

        Args:
            traces: The traces, sorted by key; a few row groups are in memory at a time. For a
                question already in the store, the caller must continue the numbering of its
                answer classes.
            conflicts: Conflicts of the answer classes, added to the manifest's count.
            timeouts: Timeouts of the answer comparison, added to the manifest's count.
            timed_out: The questions in which one timed out, added to the manifest's.

        Raises:
            InputError: If a trace breaks a rule of the schema, or is already in the store.
        """
        index_rows: list[IndexRow] = []
        totals: Counter[str] = Counter()

        def checked() -> Iterator[Trace]:
            for trace in traces:
                check_trace(trace)
                question = trace.question
                index_rows.append((trace.key[:3], trace.sample_id, question.text, question.gold))
                totals["tokens"] += trace.n_tokens
                totals["without_text"] += not trace.text
                yield trace
            self._index.check(index_rows)

        if read_manifest(self.path).content_hash != self.content_hash:
            raise InputError(
                f"{str(self.path)!r} was changed by another process: open it again, then append."
            )
        number = len(self.manifest.parts)
        manifest = self.manifest
        facts = {
            "deepprune.token_counter": manifest.token_counter,
            "deepprune.answers": manifest.answers,
        }
        part = write_part(self.path / f"part-{number:05d}.parquet", checked(), facts)
        names = self._index.questions.keys() | {key[:2] for key, *_ in index_rows}
        manifest = replace(
            manifest,
            n_questions=len(names),
            n_traces=manifest.n_traces + part.rows,
            n_tokens=manifest.n_tokens + totals["tokens"],
            n_without_text=manifest.n_without_text + totals["without_text"],
            conflicts=manifest.conflicts + conflicts,
            timeouts=manifest.timeouts + timeouts,
            timed_out=[*manifest.timed_out, *timed_out],
            parts=(*manifest.parts, part),
            schema_version=SCHEMA_VERSION,
        )
        manifest.write(self.path)
        self.manifest = manifest
        self._index.add(number, index_rows)

    def load(
        self, models: Iterable[str] | None = None, datasets: Iterable[str] | None = None
    ) -> list[QuestionTraces]:
        """Read the traces of some models and datasets, by default of all, as in `refs`."""
        return [self.group(ref) for ref in self.refs(models, datasets)]

    def refs(
        self, models: Iterable[str] | None = None, datasets: Iterable[str] | None = None
    ) -> list[QuestionRef]:
        """Return references to the traces of each question and model, without reading them.

        Sorted by dataset, question_id and model, regardless of the order of appends.

        Raises:
            InputError: If a name is unknown, or nothing is left.
        """
        index = self._index
        if not index.groups:
            raise InputError("the trace store is empty: import or collect traces first.")
        wanted = _known(datasets, "dataset", self.datasets), _known(models, "model", self.models)
        refs = [
            QuestionRef(
                Question(*key[:2], *index.questions[key[:2]]), key[2], len(index.samples[key])
            )
            for key in sorted(index.groups)
            if key[0] in wanted[0] and key[2] in wanted[1]
        ]
        if not refs:
            raise InputError(
                f"no traces of models {sorted(wanted[1])} and datasets {sorted(wanted[0])}."
            )
        return refs

    def group(self, ref: QuestionRef) -> QuestionTraces:
        """Read the traces of one question and model, sorted by sample_id."""
        parts = self._index.groups[ref.key]
        traces = [trace for part, rows in parts for trace in self._reader(part).traces(rows)]
        traces.sort(key=lambda trace: trace.sample_id)
        return QuestionTraces(traces[0].question, ref.model, tuple(traces))

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Read columns of all traces, in the order of the parts."""
        return pa.concat_tables(self._reader(i).columns(names) for i in range(self._n_parts))

    def check(self) -> list[str]:
        """Read everything and compare it with the manifest.

        Returns:
            One sentence per problem; empty for a sound store.
        """
        problems: list[str] = []
        index = StoreIndex()
        n_tokens = 0
        for number, part in enumerate(self.manifest.parts):
            try:
                path = self.path / part.file
                if path.is_file() and sha256_file(path) != part.sha256:
                    problems.append(f"{part.file} was changed: its SHA-256 is not the manifest's.")
                reader = PartReader(self.path, part)
                rows = reader.index_rows()
                if len(rows) != part.rows:
                    problems.append(
                        f"{part.file} has {len(rows)} rows, the manifest says {part.rows}."
                    )
                index.check(rows)
                index.add(number, rows)
                for trace in reader.all_traces():
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
                "the parts contain {} questions, {} traces, {} tokens, ".format(*found)
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


def _known(wanted: Iterable[str] | None, what: str, known: Sequence[str]) -> set[str]:
    """Return the wanted names, all known ones if ``None``."""
    if wanted is None:
        return set(known)
    names = {wanted} if isinstance(wanted, str) else set(wanted)
    if unknown := sorted(names - set(known)):
        raise InputError(f"unknown {what} {unknown[0]!r}; the trace store has: {', '.join(known)}.")
    return names
