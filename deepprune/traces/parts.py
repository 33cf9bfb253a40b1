"""Reading and writing the Parquet files of a trace store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deepprune.core.errors import InputError
from deepprune.core.files import replacing, sha256_file
from deepprune.core.threads import in_order
from deepprune.core.types import Trace
from deepprune.traces.index import IndexRow
from deepprune.traces.manifest import Part
from deepprune.traces.schema import SCHEMA, SCHEMAS, from_table, to_table

_ROW_GROUP_TRACES = 64
_ROW_GROUP_CHARS = 4_000_000
_ENCODINGS = {
    "token_end.list.element": "DELTA_BINARY_PACKED",
    "n_tokens": "DELTA_BINARY_PACKED",
    "sample_id": "DELTA_BINARY_PACKED",
}
_DICTIONARY = [  # values that repeat
    "dataset",
    "question_id",
    "question",
    "gold",
    "model",
    "source",
    "finish_reason",
    "answer",
    "answer_class",
    "probes.list.element.n_tokens",
    "probes.list.element.answer",
    "probes.list.element.answer_class",
]


def write_part(path: Path, traces: Iterable[Trace], metadata: Mapping[str, str]) -> Part:
    """Write one part, atomically; a few row groups are in memory at a time.

    A row group ends at the end of a group (question and model) once it has 64 traces or 4 million
    characters: each question is in one row group, and small questions share one.

    Args:
        path: The new file.
        traces: The traces, sorted by group.
        metadata: Facts about the rows that a reader needs without the manifest.
    """
    schema = SCHEMA.with_metadata(dict(metadata))
    with replacing(path) as temporary:
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=3,  # level 9 takes twice the time for a file 14 % smaller
            use_dictionary=_DICTIONARY,
            column_encoding=_ENCODINGS,
            write_statistics=False,  # rows are found by the index
        ) as writer:
            tables = (
                to_table(group).replace_schema_metadata(schema.metadata)
                for group in _row_groups(traces)
            )

            def write(table: pa.Table) -> int:
                n_rows: int = table.num_rows
                writer.write_table(table, row_group_size=n_rows)
                return n_rows

            n_rows = sum(in_order(write, tables, 1))  # the next table is made meanwhile
        return Part(path.name, n_rows, temporary.stat().st_size, sha256_file(temporary))


def _row_groups(traces: Iterable[Trace]) -> Iterator[list[Trace]]:
    group: list[Trace] = []
    for _, members in groupby(traces, key=lambda trace: trace.key[:3]):
        group += members
        n_chars = sum(len(trace.text) for trace in group)
        if len(group) >= _ROW_GROUP_TRACES or n_chars >= _ROW_GROUP_CHARS:
            yield group
            group = []
    if group:
        yield group


class PartReader:
    """Reads one part, one row group at a time.

    Raises:
        InputError: If the file is missing, truncated, damaged or of another schema.
    """

    def __init__(self, folder: Path, part: Part) -> None:
        self._path = folder / part.file
        if not self._path.is_file():
            raise InputError(f"{str(self._path)!r} is missing, but the manifest lists it.")
        if (size := self._path.stat().st_size) != part.bytes:
            what = "truncated" if size < part.bytes else "changed"
            raise InputError(
                f"{str(self._path)!r} is {what}: it has {size} bytes, the manifest says "
                f"{part.bytes}. Restore the file, or import the traces again."
            )
        with self._readable():
            self._file = pq.ParquetFile(self._path)
        if not any(self._file.schema_arrow.equals(known) for known in SCHEMAS.values()):
            raise InputError(
                f"{str(self._path)!r} is not a part of a trace store: its columns are not those of "
                "a store."
            )
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(sizes)]  # first rows of the row groups, and the end
        self._kept: tuple[int, list[Trace]] = -1, []  # number and traces of a row group

    def columns(self, names: Sequence[str]) -> pa.Table:
        with self._readable():
            return self._file.read(columns=list(names))

    def traces(self, rows: slice) -> list[Trace]:
        """Read rows of one row group; keep it in memory until its end was read."""
        number = bisect_right(self._starts, rows.start) - 1
        first, end = self._starts[number : number + 2]
        kept, traces = self._kept
        if kept != number:
            traces = self._row_group(number)
        self._kept = (-1, []) if rows.stop == end else (number, traces)
        return traces[rows.start - first : rows.stop - first]

    def all_traces(self) -> Iterator[Trace]:
        """Read all traces, one row group in memory at a time."""
        for number in range(len(self._starts) - 1):
            yield from self._row_group(number)

    def _row_group(self, number: int) -> list[Trace]:
        with self._readable():
            return from_table(self._file.read_row_group(number))

    def index_rows(self) -> list[IndexRow]:
        table = self.columns(["dataset", "question_id", "model", "sample_id", "question", "gold"])
        dataset, question_id, model, sample_id, text, gold = (
            column.to_pylist() for column in table.itercolumns()
        )
        keys = zip(dataset, question_id, model, strict=True)
        return list(zip(keys, sample_id, text, gold, strict=True))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{str(self._path)!r} is damaged and cannot be read ({reason}). "
                "Restore the file, or import the traces again."
            ) from error
