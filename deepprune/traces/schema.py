"""Arrow schema of a trace store, and conversion of `Trace` to Arrow and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason, ForcedAnswer, Question, Trace

SCHEMA_VERSION = 3
"""Version 2 added class and correctness of forced answers, 3 their tokens; older ones are read."""

TokenEnds = NDArray[np.int32]

_FORCED_1 = [pa.field("n_tokens", pa.int32(), nullable=False), pa.field("answer", pa.string())]
_FORCED_2 = [
    *_FORCED_1,
    pa.field("answer_class", pa.int32(), nullable=False),
    pa.field("is_correct", pa.bool_()),
]
_FORCED_3 = [*_FORCED_2, pa.field("tokens", pa.int32())]


def _schema(forced: Sequence[pa.Field]) -> pa.Schema:
    fields = [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("sample_id", pa.int32(), nullable=False),
        pa.field("seed", pa.int64()),
        pa.field("source", pa.string()),
        pa.field("text", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("token_end", pa.list_(pa.field("element", pa.int32(), nullable=False))),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        # Classes are numbered per (dataset, question_id), over all models of the store.
        pa.field("answer_class", pa.int32(), nullable=False),
        pa.field("is_correct", pa.bool_()),
        pa.field("token_confidence", pa.list_(pa.field("element", pa.float32(), nullable=False))),
        pa.field("probes", pa.list_(pa.field("element", pa.struct(forced), nullable=False))),
    ]
    return pa.schema(fields)


SCHEMAS = {1: _schema(_FORCED_1), 2: _schema(_FORCED_2), SCHEMA_VERSION: _schema(_FORCED_3)}
"""The schemas that can be read, by version."""

SCHEMA = SCHEMAS[SCHEMA_VERSION]
"""The schema that is written."""


def check_trace(trace: Trace) -> None:
    """Check one trace against the rules of the schema.

    Raises:
        InputError: If a field breaks a rule; the message names the trace.
    """
    ends, text, confidence = np.asarray(trace.token_end), trace.text, trace.token_confidence
    if trace.n_tokens < 0:
        wrong = f"n_tokens must be >= 0, got {trace.n_tokens}"
    elif ends.shape != (trace.n_tokens,):
        wrong = (
            f"token_end must have one entry per token, got {trace.n_tokens} tokens and {len(ends)} "
            "entries"
        )
    elif len(ends) and (ends[0] < 0 or (ends[1:] < ends[:-1]).any() or ends[-1] > len(text)):
        wrong = (
            f"token_end must grow from >= 0 to at most the {len(text)} characters of the text, got "
            f"first {ends[0]}, last {ends[-1]}"
        )
    elif confidence is not None and len(confidence) != trace.n_tokens:
        wrong = (
            f"token_confidence must have one entry per token, got {trace.n_tokens} tokens and "
            f"{len(confidence)} entries"
        )
    elif (places := [f.n_tokens for f in trace.forced_answers]) != sorted(places):
        wrong = f"forced answers must be in the order of their n_tokens, got {places[:8]}"
    else:
        return
    raise InputError("{} in {}/{}, {}, sample {}.".format(wrong, *trace.key))


def to_table(traces: Sequence[Trace]) -> pa.Table:
    """Convert traces to an Arrow table, in the given order."""
    columns: dict[str, Any] = {
        name: [getattr(t, name) for t in traces] for name in SCHEMA.names if hasattr(Trace, name)
    }
    for name in ("dataset", "question_id", "gold"):
        columns[name] = [getattr(t.question, name) for t in traces]
    columns["question"] = [t.question.text for t in traces]
    columns["finish_reason"] = [str(t.finish_reason) for t in traces]
    columns["token_end"] = [np.asarray(t.token_end, np.int32) for t in traces]
    columns["token_confidence"] = [
        None if t.token_confidence is None else np.asarray(t.token_confidence, np.float32)
        for t in traces
    ]
    forced = [field.name for field in _FORCED_3]
    columns["probes"] = [
        [{name: getattr(p, name) for name in forced} for p in t.forced_answers] or None
        for t in traces
    ]
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def from_table(table: pa.Table) -> list[Trace]:
    """Convert a table of one of `SCHEMAS` to traces.

    ``token_end`` and ``token_confidence`` are slices of the column's values, without a copy.
    """
    plain = table.drop_columns(["token_end", "token_confidence"]).to_pylist()
    slices = (list_slices(table.column(name)) for name in ("token_end", "token_confidence"))
    questions: dict[tuple[str, str], Question] = {}
    traces = []
    for row, ends, confidence in zip(plain, *slices, strict=True):
        key = row.pop("dataset"), row.pop("question_id")
        text, gold = row.pop("question"), row.pop("gold")
        reason, forced = row.pop("finish_reason"), row.pop("probes")
        assert ends is not None
        traces.append(
            Trace(
                question=questions.setdefault(key, Question(*key, text=text, gold=gold)),
                token_end=cast(Sequence[int], ends),
                finish_reason=FinishReason(reason),
                token_confidence=cast(Sequence[float] | None, confidence),
                forced_answers=tuple(ForcedAnswer(**one) for one in forced or ()),
                **row,  # the other columns are named as the fields
            )
        )
    return traces


def list_slices(column: pa.ChunkedArray) -> list[NDArray[Any] | None]:
    """Return each row of a list column as a read-only slice of its values; ``None`` if null."""
    slices: list[NDArray[Any] | None] = []
    for chunk in column.chunks:
        values = np.from_dlpack(chunk.values)  # pyarrow's `to_numpy` imports pandas
        offsets = np.from_dlpack(chunk.offsets).tolist()
        valid = chunk.is_valid().to_pylist()
        slices.extend(
            values[offsets[i] : offsets[i + 1]] if valid[i] else None for i in range(len(chunk))
        )
    return slices
