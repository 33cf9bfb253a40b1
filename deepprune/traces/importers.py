"""Import a file of traces into a store: count tokens, extract answers, assign their classes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, tee
from pathlib import Path
from typing import Any, cast

from deepprune.answers import AnswerStyle, extract_answer
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file, sync_folder
from deepprune.core.types import NO_ANSWER, Trace
from deepprune.traces.classes import class_answers
from deepprune.traces.formats import FORMATS, STORED, Note, recognise
from deepprune.traces.manifest import SOURCE, check_free
from deepprune.traces.parallel_probe import read_parallel_probe
from deepprune.traces.parquet import column_names, read_parquet
from deepprune.traces.progress import OnProgress
from deepprune.traces.records import SUFFIXES, Record, find_files, read_records, suffix_of
from deepprune.traces.rows import read_rows
from deepprune.traces.source import SourceFile
from deepprune.traces.store import TraceStore
from deepprune.traces.tokens import TOKENIZER, token_ends

IMPORTER_VERSION = 5
"""Incremented when an importer gives other rows for the same file, to renew cached imports."""

_RENAMED = {"probes": "parallel-probe", "jsonl": "rows"}
_MAX_NAMED = 5  # bad records that are named one by one


def import_file(
    path: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    answers: str | None = None,
    dataset: str | None = None,
    model: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    skip_bad: bool = False,
    on_progress: OnProgress | None = None,
    note: Note = lambda line: None,
) -> TraceStore:
    """Import files of traces into a new store, completely or not at all.

    The files are read into memory: answer classes need all traces of a question.

    Args:
        path: Files, globs or folders of one of the `FORMATS`.
        out: Folder of the new store.
        format: One of `FORMATS`, or ``auto`` to recognise it by the first record.
        fields: deepprune's field name -> name or path in a record, see `read_rows`.
        answers: A style of `extract_answer`, or ``source`` to keep the file's answers; by default
            ``source`` if the file has answers, else ``auto``.
        dataset: The dataset of records that name none; by default the file's name (`dataset_of`).
        model: The model of records that name none; for ``parallel-probe`` by default the file's
            name without its suffix.
        sampling: Sampling parameters, for the manifest.
        skip_bad: Leave out records that cannot be read, and note which.
        on_progress: Called while tokens are counted and answers compared.
        note: Called with lines about what was read and left out.

    Raises:
        InputError: If a file, an option or the folder cannot be used.
    """
    out, given = Path(out), dict(fields or {})
    if answers not in (None, SOURCE):
        extract_answer("", answers)  # refuses an unknown style before the file is read
    check_free(out)
    paths = find_files([path] if isinstance(path, Path | str) else path)
    report = on_progress or (lambda stage, done, total: None)
    source = _read(paths, format, given, dataset, model, skip_bad, note)
    source, style = _with_answers(paths[0], source, answers)
    source = _with_tokens(source, report)
    traces, counts = class_answers(source, report)
    _question_agreement(traces, note)
    options = {"fields": given, "dataset": dataset, "model": model, "skip_bad": skip_bad}
    hashes = {path.name: sha256_file(path) for path in paths}
    provenance = {
        **({"file": paths[0].name, "sha256": hashes[paths[0].name]} if len(paths) == 1 else {}),
        **({"files": hashes} if len(paths) > 1 else {}),
        "importer": source.format,
        "importer_version": IMPORTER_VERSION,
        "options": {name: value for name, value in options.items() if value},
    }
    with _published(out) as folder:
        store = TraceStore.create(
            folder,
            token_counter=source.token_counter or TOKENIZER,
            answers=style,
            sampling=sampling,
            provenance=provenance,
        )
        store.append(traces, **counts)
    return TraceStore.open(out)


def _read(
    paths: Sequence[Path],
    format: str,
    fields: dict[str, str],
    dataset: str | None,
    model: str | None,
    skip_bad: bool,
    note: Note,
) -> SourceFile:
    left_out: list[str] = []

    def bad(error: InputError) -> None:
        if not skip_bad:
            raise InputError(f"{error} (--skip-bad leaves such records out.)") from error
        left_out.append(str(error))

    records, ahead = tee(record for path in paths for record in read_records(path, bad))
    path, name = paths[0], _format_of(paths[0], format, fields, ahead)
    del ahead  # it would keep all records
    is_stored = name in STORED
    if is_stored or name == "parallel-probe":
        given = {
            "--field": fields,
            "--skip-bad": skip_bad,
            "--dataset": is_stored and dataset,
            "--model": is_stored and model,
        }
        if unused := [option for option, value in given.items() if value]:
            raise InputError(
                f"{unused[0]} is not for {str(path)!r}: the fields of format {name!r} are fixed."
            )
        if len(paths) > 1:
            raise InputError(
                f"format {name!r} is read one file at a time, got {len(paths)}. Import each into "
                "a store of its own."
            )
        return read_parquet(path, name) if is_stored else read_parallel_probe(path, dataset, model)
    source = read_rows(
        records,
        name,
        fields,
        dataset=dataset,
        model=model,
        bad=bad,
        note=note,
    )
    for reason in left_out[:_MAX_NAMED]:
        note(f"left out: {reason}")
    if left_out:
        note(f"{len(left_out)} bad records left out, {len(source.traces)} traces read.")
    return source


def _format_of(
    path: Path, format: str, fields: Mapping[str, str], records: Iterator[Record]
) -> str:
    """Return the format that was named, else the one of the first record."""
    if (name := format.replace("_", "-")) in FORMATS:
        return name
    if format != "auto":
        advice = _RENAMED.get(format)
        raise InputError(
            f"format must be auto, {', '.join(FORMATS)}, got {format!r}"
            + (f" (its name is {advice} now)." if advice else ".")
        )
    if (suffix := suffix_of(path)) not in SUFFIXES:
        raise InputError(
            f"a file of traces must end in {', '.join(SUFFIXES)}, got {str(path)!r}. For another "
            "name use --format ('deepprune traces formats' lists them)."
        )
    is_parquet = suffix == ".parquet"
    names = column_names(path) if is_parquet else [n for r in islice(records, 1) for n in r.fields]
    found = recognise(names, is_parquet=is_parquet)
    if found is None and is_parquet and not fields:
        raise InputError(
            f"{str(path)!r} has an unknown layout, its columns are {', '.join(names)}. Name them "
            "with --field text=NAME question=NAME, or the format with --format ('deepprune traces "
            "formats' lists them)."
        )
    return "rows" if found is None or (fields and found in STORED) else found


def _question_agreement(traces: Sequence[Trace], note: Note) -> None:
    """Say that all traces agree and are right, as they are where the gold was read as theirs."""
    answered = [trace for trace in traces if trace.answer_class != NO_ANSWER]
    questions = {trace.question.key for trace in answered}
    if len(questions) < len(answered) and all(trace.is_correct for trace in answered):
        note(
            "all traces have the right answer, as if the gold answer was read as theirs. If so, "
            "name it with --field gold=NAME; --answers auto extracts anew."
        )


def _with_answers(path: Path, source: SourceFile, answers: str | None) -> tuple[SourceFile, str]:
    """Extract the answers unless those of the file are kept; return the style, too."""
    if not source.traces:
        raise InputError(f"{str(path)!r} has no traces.")
    if answers == SOURCE and source.answers is None:
        raise InputError(
            f"--answers source needs answers in the file, {str(path)!r} has none: choose a style, "
            f"{', '.join(AnswerStyle)}."
        )
    if answers in (None, SOURCE) and source.answers is not None:
        return source, source.answers if source.has_classes else SOURCE
    style = answers or AnswerStyle.AUTO.value
    if not any(trace.text for trace in source.traces):
        raise InputError(
            f"{str(path)!r} has no texts to extract answers from by the style {style!r}"
            + (": leave out --answers." if source.answers is not None else ".")
        )
    traces = [replace(t, answer=extract_answer(t.text, style)) for t in source.traces]
    return replace(source, traces=traces, has_classes=False, has_forced_classes=False), style


def _with_tokens(source: SourceFile, report: OnProgress) -> SourceFile:
    if source.token_counter is not None:
        return source
    texts = [trace.text for trace in source.traces]
    ends = token_ends(texts, lambda done: report("tokens", done, len(texts)))
    traces = [
        replace(t, token_end=cast(Sequence[int], e), n_tokens=len(e))
        for t, e in zip(source.traces, ends, strict=True)
    ]
    return replace(source, traces=traces)


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``out`` to write to; rename it to ``out`` at the end.

    Raises:
        InputError: If another process has created a store there meanwhile; that one stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder / "store"
        if (out / "README.md").exists():
            shutil.copy2(out / "README.md", folder / "store")
            (out / "README.md").unlink()
        try:
            os.replace(folder / "store", out)
        except OSError:
            check_free(out)
            raise
        sync_folder(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
