"""Readers of Parquet files of traces: normalised tables, and parts of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepprune.core.errors import InputError
from deepprune.core.types import Trace
from deepprune.traces.manifest import GENERATOR, SOURCE
from deepprune.traces.records import readable
from deepprune.traces.schema import SCHEMA, list_slices
from deepprune.traces.source import SourceFile, trace_of

_NORMALISED = {  # its column -> ours
    "dataset": "dataset",
    "problem_id": "question_id",
    "problem": "question",
    "answer": "gold",
    "model": "model",
    "run": "source",
    "sample_id": "sample_id",
    "trace": "text",
    "final_answer": "answer",
    "is_correct": "is_correct",
    "answer_group": "answer_class",
    "finished": "finished",
}
_BATCH = 64  # rows in memory at a time
_BUFFER = 1 << 20  # bytes of a column; without it, columns of a row group are read as a whole
NATIVE_COLUMNS = ("dataset", "question_id", "question", "model", "sample_id", "text")


def read_parquet(path: Path, format: str) -> SourceFile:
    """Read a Parquet file of format ``normalised`` or ``native``, a few rows at a time.

    Raises:
        InputError: If it is not a Parquet file, or columns are missing.
    """
    with readable(path):
        schema = pq.read_schema(path)
    _require(path, format, schema.names)
    if format == "normalised":
        traces = _normalised(_tables(path, schema.names, _NORMALISED))
        return SourceFile(format, traces, answers=SOURCE, has_classes=True)
    return _native(path, schema)


def _tables(path: Path, names: Sequence[str], known: Mapping[str, str]) -> Iterator[pa.Table]:
    """Read the known columns, renamed and cast to those of the schema, some rows at a time."""
    with readable(path):
        file = pq.ParquetFile(path, buffer_size=_BUFFER)
        columns = [name for name in names if name in known]
        # Threads take three times the CPU for batches as small as these.
        for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
            yield _typed(path, pa.Table.from_batches([batch]), known)


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        InputError: If it is not a Parquet file.
    """
    with readable(path):
        names: list[str] = pq.ParquetFile(path).schema_arrow.names
    return names


def _typed(path: Path, table: pa.Table, known: Mapping[str, str]) -> pa.Table:
    """Rename the columns to ours and cast them to the types of the schema."""
    for i, name in enumerate(table.column_names):
        if known[name] not in SCHEMA.names:
            continue
        type_ = _type_of(known[name], table.field(i).type)
        try:
            column = table.column(i).cast(type_)
        except pa.ArrowException as error:
            raise InputError(
                f"{name} of {str(path)!r} must be {type_}, got {table.field(i).type} "
                f"({str(error).splitlines()[0]})."
            ) from None
        if known[name] in NATIVE_COLUMNS and column.null_count:
            raise InputError(
                f"{name} must have a value in every row; {str(path)!r} has rows without."
            )
        table = table.set_column(i, known[name], column)
    return table


def _type_of(name: str, given: pa.DataType) -> pa.DataType:
    """Return the type of a column; forced answers may lack all but place and text."""
    type_ = SCHEMA.field(name).type
    if name != "probes":
        return type_
    optional = {"answer_class", "is_correct", "tokens"}
    fields = [f for f in type_.value_type if f.name not in optional or _has(given, f.name)]
    return pa.list_(type_.value_field.with_type(pa.struct(fields)))


def _has(forced: pa.DataType, name: str) -> bool:
    """Return whether the forced answers of a file have a field."""
    element = getattr(forced, "value_type", None)  # any kind of list
    return isinstance(element, pa.StructType) and element.get_field_index(name) >= 0


def _require(path: Path, format: str, names: Sequence[str]) -> None:
    """Check that no column of the format is missing."""
    needed = tuple(_NORMALISED) if format == "normalised" else NATIVE_COLUMNS
    if missing := [name for name in needed if name not in names]:
        raise InputError(
            f"{str(path)!r} has no {', '.join(missing)}, required by format {format!r}; it has "
            f"{', '.join(names)}. With --format rows only text, question and model are required."
        )


def _normalised(tables: Iterable[pa.Table]) -> Iterator[Trace]:
    """Read a normalised table: keep answers, classes and correctness, renumber the samples.

    ``finished`` says that an answer was found, not why the trace ended: an unfinished trace may
    have reached a limit or never boxed its answer, so its finish reason is unknown.
    """
    seen: set[tuple[Any, ...]] = set()
    n_samples: Counter[tuple[str, ...]] = Counter()
    for row in (row for table in tables for row in table.to_pylist()):
        key = (row["dataset"], row["question_id"], row["model"])
        full_key = (*key, row["source"], row["sample_id"])
        if full_key in seen:
            raise InputError(
                "(dataset, problem_id, model, run, sample_id) must be unique, but "
                f"{full_key} appears twice."
            )
        seen.add(full_key)
        row["source"] = f"{row['source']}/{row['sample_id']}"
        row["sample_id"] = n_samples[key]
        row["finish_reason"] = "stop" if row["finished"] else None
        yield trace_of(row)
        n_samples[key] += 1


def _native(path: Path, schema: pa.Schema) -> SourceFile:
    """Read a file with the columns of a store: one of its parts, or another program's."""
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    names = set(schema.names) & set(SCHEMA.names)
    has_classes = {"answer", "answer_class", "is_correct"} <= names
    if not has_classes:
        names -= {"answer_class", "is_correct"}
    counter = metadata.get(b"deepprune.token_counter", GENERATOR.encode()).decode()
    answers = metadata.get(b"deepprune.answers", SOURCE.encode()).decode()
    return SourceFile(
        "native",
        _native_traces(path, sorted(names)),
        token_counter=counter if "token_end" in names else None,
        answers=answers if "answer" in names else None,
        has_classes=has_classes,
        has_forced_classes=has_classes
        and "probes" in names
        and _has(schema.field("probes").type, "answer_class"),
    )


def _native_traces(path: Path, names: Sequence[str]) -> Iterator[Trace]:
    long = [name for name in ("token_end", "token_confidence") if name in names]
    for table in _tables(path, names, dict(zip(names, names, strict=True))):
        rows = table.drop_columns(long).to_pylist()
        for name in long:
            for row, values in zip(rows, list_slices(table.column(name)), strict=True):
                row[name] = values
        for row in rows:
            if "token_end" in row and row["token_end"] is None:
                raise InputError(
                    f"token_end must have a value in every row of {str(path)!r}, or be missing "
                    "altogether."
                )
            yield trace_of(row)
