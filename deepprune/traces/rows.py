"""Traces of records, by the names or paths of their fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isnan
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.types import Trace
from deepprune.traces.formats import FORMATS, Note, message_text
from deepprune.traces.manifest import GENERATOR, SOURCE
from deepprune.traces.records import OnBad, Record
from deepprune.traces.source import SourceFile, question_id_of, trace_of, whole

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
_PER_TRACE = ("sample_id", "seed", "source", "finish_reason", "answer")
_BITS = {"sample_id": 32, "seed": 64}


def read_rows(
    records: Iterable[Record],
    format: str,
    fields: Mapping[str, str],
    *,
    dataset: str | None,
    model: str | None,
    bad: OnBad,
    note: Note,
) -> SourceFile:
    """Read one trace per record, or a list of traces per record.

    If ``text`` is a list, each item is a trace, and other lists have one item per trace. Without
    ``question_id`` it is a hash of the question's text; without ``sample_id`` traces are numbered
    in the order of the file. Half of a surrogate pair, which some servers emit, becomes U+FFFD.

    Args:
        records: The records of all files.
        format: One of `FORMATS`.
        fields: Our field name -> path in a record, before those of the format. Dots separate the
            keys of nested objects, numbers count from 0 or, negative, from the end, ``*`` stands
            for all items (``choices.*.text``), ``|`` separates alternatives.
        dataset: Name for records that have none; else the name of the file.
        model: Name for records that have none.
        bad: Called with what is wrong with a record.
        note: Called with the fields that were read.

    Raises:
        InputError: If a field is unknown, or ``bad`` raises.
    """
    paths = _paths(format, fields)
    source = SourceFile(format, iter(()), token_counter=GENERATOR if "token_end" in paths else None)
    if prepare := FORMATS[format].records:
        records = prepare(records, note)
    n_samples: Counter[tuple[str, ...]] = Counter()
    places: dict[tuple[Any, ...], str] = {}

    def traces() -> Iterator[Trace]:
        read: dict[str, None] = {}
        for record in _guarded(records, format):
            defaults = {"dataset": dataset or record.dataset, "model": model}
            try:
                row = _row(record, paths, {"text", "question", *fields}, format)
                _check_own_answer(row, paths, fields, record.place)
                for one in _split(row, record.place):
                    one |= {k: v for k, v in defaults.items() if one.get(k) is None}
                    trace = _trace(one, n_samples, record.place)
                    _check_place(trace, places, record.place)
                    yield trace
                read |= dict.fromkeys(row)
            except InputError as error:
                bad(error)
        if "answer" in read:
            source.answers = SOURCE
        if read:
            named = [name if paths[name] == name else f"{name}={paths[name]}" for name in read]
            note(f"read as {format}: {', '.join(named)}.")

    source.traces = traces()
    return source


def _paths(format: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Return the paths of our fields: those given, then those of the format."""
    if unknown := sorted(fields.keys() - set(FIELDS)):
        raise InputError(f"unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}.")
    if "gold" in fields and fields["gold"] == fields.get("answer"):
        raise InputError(
            f"--field gold and --field answer both name {fields['gold']!r}: gold is the correct "
            "answer, answer is the trace's own. Leave one out."
        )
    own = {name: name for name in FIELDS} if format == "rows" else {}
    return own | {**FORMATS[format].fields, **fields}


def _check_place(trace: Trace, places: dict[tuple[Any, ...], str], place: str) -> None:
    """Check that no trace before had this key, and remember its place."""
    if trace.key in places:
        raise InputError(
            "(dataset, question_id, model, sample_id) must be unique, but "
            f"{trace.key} is in {places[trace.key]} and again in {place}."
        )
    places[trace.key] = place


def _guarded(records: Iterable[Record], format: str) -> Iterator[Record]:
    try:
        yield from records
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the records do not have the layout of format {format!r} ({error!r}): see its fields "
            "in docs/import.md, or use --format rows with --field."
        ) from error


def _row(
    record: Record, paths: Mapping[str, str], required: set[str], format: str
) -> dict[str, Any]:
    """Return the values of a record under deepprune's names."""
    row = {}
    for name, path in paths.items():
        try:
            row[name] = _lookup(record.fields, path)
        except LookupError:
            if name in required:
                raise InputError(
                    f"{record.place} has no field {path!r} for {name!r}; it has "
                    f"{', '.join(record.fields)}. Name it with --field {name}=NAME. Read was "
                    f"{format}: {FORMATS[format].what}."
                ) from None
    return row


def _lookup(fields: Mapping[str, Any], path: str) -> Any:
    """Return the first value of the alternatives that is not null."""
    found: list[Any] = []
    for option in (path,) if path in fields else path.split("|"):
        try:
            found.append(_walk(fields, [option] if option in fields else option.split(".")))
        except LookupError:
            continue
        if found[-1] is not None:
            return found[-1]
    return found[0]  # an IndexError without any


def _walk(value: Any, keys: list[str]) -> Any:
    for i, key in enumerate(keys):
        if isinstance(value, list) and key == "*":
            return [_walk(item, keys[i + 1 :]) for item in value]
        if isinstance(value, list) and key.removeprefix("-").isdecimal():
            value = value[int(key)]
        elif isinstance(value, Mapping):
            value = value[key]
        else:
            raise LookupError(key)
    return value


def _check_own_answer(
    row: dict[str, Any], paths: Mapping[str, str], fields: Mapping[str, str], place: str
) -> None:
    """Drop a column ``answer`` that is the gold; refuse one that may be either.

    Data sets call the gold answer ``answer``. Read as the trace's own, it would make every trace
    right.
    """
    if "answer" not in row or paths["answer"] != "answer" or "answer" in fields:
        return
    if paths.get("gold") == "answer":
        del row["answer"]
    elif "gold" not in row and not isinstance(row["answer"], list):
        raise InputError(
            f"{place} has 'answer' and no 'gold': if it is the correct answer, add --field "
            "gold=answer; if it is the trace's own, --field answer=answer."
        )


def _split(row: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Return one row per trace."""
    texts = row["text"]
    while isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], list):
        texts = texts[0]
    is_parts = isinstance(texts, list) and all(isinstance(t, dict) and "type" in t for t in texts)
    if not isinstance(texts, list) or (is_parts and texts):
        texts = [texts]
    n = len(texts)
    own = [name for name in _PER_TRACE if isinstance(row.get(name), list)]
    if n > 1 and row.get("answer") is not None and "answer" not in own:
        own.append("answer")
    for name in own:
        if not isinstance(row[name], list) or len(row[name]) != n:
            raise InputError(
                f"{place}: {name} must be a list of {n}, as text is, got {str(row[name])[:40]!r}."
            )
    return [
        {**row, "text": text, **{name: row[name][i] for name in own}}
        for i, text in enumerate(texts)
    ]


def _trace(row: dict[str, Any], n_samples: Counter[tuple[str, ...]], place: str) -> Trace:
    question = row["question"]
    if isinstance(question, list):  # messages
        of_user = ("user", "human")
        asked = [m for m in question if isinstance(m, dict)]
        asked = [m for m in asked if m.get("role", m.get("from")) in of_user]
        question = asked[-1] if asked else None
    elif isinstance(question, int) and "token_end" in row:  # the number of an unknown question
        question = str(question)
    row["question"] = _text(question, "question", place)
    row["text"] = _text(row["text"], "text", place)
    if row["model"] is None:
        raise InputError(f"{place} has no model: add --model NAME or --field model=NAME.")
    row |= {name: _optional(row, name) for name in ("question_id", "answer", "source")}
    row |= {name: _integer(row, name, place) for name in _BITS}
    if row["question_id"] is None:
        row["question_id"] = question_id_of(row["question"])
    row |= {name: str(row[name]) for name in ("dataset", "model")}
    key = row["dataset"], row["question_id"], row["model"]
    if row["sample_id"] is None:
        row["sample_id"] = n_samples[key]
        n_samples[key] += 1
    return trace_of(row)


def _text(value: object, name: str, place: str) -> str:
    text = message_text(value)
    if text is None:
        raise InputError(
            f"{place}: {name} must be a string, got {str(value)[:40]!r}. "
            f"Name the right field with --field {name}=NAME (dots separate nested keys)."
        )
    return whole(text)


def _optional(row: Mapping[str, Any], name: str) -> str | None:
    value = _number(row.get(name))
    return None if value is None or value == "" else whole(str(value))


def _integer(row: Mapping[str, Any], name: str, place: str) -> int | None:
    value = _number(row.get(name))
    if value is None:
        return value
    limit = 1 << (_BITS[name] - 1)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < limit:
        return value
    raise InputError(
        f"{place}: {name} must be an integer of {_BITS[name]} bits, got {str(value)[:40]!r}. "
        f"Leave it out, or name another field with --field {name}=NAME."
    )


def _number(value: Any) -> Any:
    """Undo what pandas does to a column of integers with gaps: 3.0 is 3, NaN is missing."""
    if not isinstance(value, float):
        return value
    return None if isnan(value) else int(value) if value.is_integer() else value
