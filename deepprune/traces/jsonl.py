"""Reader of JSON lines with configurable field names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.types import Trace
from deepprune.traces.formats import SourceFile, question_id_of, trace_of, whole
from deepprune.traces.manifest import SOURCE

FIELDS = (
    "text",
    "question",
    "question_id",
    "gold",
    "dataset",
    "model",
    "sample_id",
    "seed",
    "source",
    "finish_reason",
    "answer",
)
_PER_TRACE = ("text", "sample_id", "seed", "source", "finish_reason", "answer")


def read_jsonl(
    path: Path, fields: Mapping[str, str], dataset: str | None, model: str | None
) -> SourceFile:
    """Read one trace per line, or a list of traces per line.

    If ``text`` is a list, each item is a trace, and other lists of the same length have one item
    per trace. Without ``question_id`` it is a hash of the question's text; without ``sample_id``
    traces are numbered in the order of the file. Half of a surrogate pair, which some servers emit,
    becomes U+FFFD.

    Args:
        path: The file.
        fields: Our field name -> name in the file; dots separate the keys of nested objects
            (``response.choices.0.text``).
        dataset: Name for lines that have none; the file's name if ``None``.
        model: Name for lines that have none.

    Raises:
        InputError: If a field is unknown or missing, or a line is not a JSON object; with the line
            number.
    """
    if unknown := sorted(fields.keys() - set(FIELDS)):
        raise InputError(f"unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}.")
    defaults = {"dataset": dataset or path.stem, "model": model}
    n_samples: Counter[tuple[str, ...]] = Counter()
    traces: list[Trace] = []
    seen: dict[tuple[Any, ...], int] = {}
    has_answers = False
    for number, line in json_lines(path):
        for row in _traces_of(line, fields, number):
            has_answers |= "answer" in row
            row |= {name: v for name, v in defaults.items() if row.get(name) is None}
            trace = _trace(row, n_samples, number)
            if trace.key in seen:
                raise InputError(
                    "(dataset, question_id, model, sample_id) must be unique, but "
                    f"{trace.key} is on lines {seen[trace.key]} and {number}."
                )
            seen[trace.key] = number
            traces.append(trace)
    return SourceFile("jsonl", traces, answers=SOURCE if has_answers else None)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers, from 1, and JSON objects; skip empty lines.

    Raises:
        InputError: If a line is not a JSON object; with the line number.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path.name}, line {number} is not JSON: {error}.") from None
            if not isinstance(line, dict):
                raise InputError(
                    f"{path.name}, line {number} must be a JSON object, got {str(line)[:40]!r}."
                )
            yield number, line


def _traces_of(
    line: dict[str, Any], fields: Mapping[str, str], number: int
) -> Iterator[dict[str, Any]]:
    """Yield the traces of one line, with deepprune's field names."""
    row = {}
    for name in FIELDS:
        value, is_there = _lookup(line, fields.get(name, name))
        if is_there:
            row[name] = value
        elif name in fields or name in ("text", "question"):
            raise InputError(
                f"line {number} has no field {fields.get(name, name)!r} for {name!r}; it has "
                f"{', '.join(line)}. Name it with --field {name}=NAME."
            )
    if not isinstance(row["text"], list):
        yield row
        return
    n = len(row["text"])
    lists = [k for k in _PER_TRACE if isinstance(row.get(k), list) and len(row[k]) == n]
    for i in range(n):
        yield {**row, **{name: row[name][i] for name in lists}}


def _lookup(line: dict[str, Any], path: str) -> tuple[Any, bool]:
    if path in line:
        return line[path], True
    value: Any = line
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None, False
    return value, True


def _trace(row: dict[str, Any], n_samples: Counter[tuple[str, ...]], number: int) -> Trace:
    row |= {name: _text(row, name, number) for name in ("text", "question")}
    if row["model"] is None:
        raise InputError(f"line {number} has no model: add --model NAME or --field model=NAME.")
    row |= {name: _optional(row, name) for name in ("question_id", "gold", "answer", "source")}
    row |= {name: _integer(row, name, number) for name in ("sample_id", "seed")}
    if row["question_id"] is None:
        row["question_id"] = question_id_of(row["question"])
    row |= {name: str(row[name]) for name in ("dataset", "model")}
    key = row["dataset"], row["question_id"], row["model"]
    if row["sample_id"] is None:
        row["sample_id"] = n_samples[key]
        n_samples[key] += 1
    return trace_of(row)


def _text(row: Mapping[str, Any], name: str, number: int) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise InputError(
            f"line {number}: {name} must be a string, got {str(value)[:40]!r}. "
            f"Name the right field with --field {name}=NAME (dots separate nested keys)."
        )
    return whole(value)


def _optional(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return None if value is None else whole(str(value))


def _integer(row: Mapping[str, Any], name: str, number: int) -> int | None:
    value = row.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(f"line {number}: {name} must be an integer, got {str(value)[:40]!r}.")
