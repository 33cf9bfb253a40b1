"""Import a file of traces into a store: count tokens, extract answers, assign their classes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
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
from deepprune.traces.records import (
    SUFFIXES,
    Record,
    find_files,
    read_records,
    suffix_of,
)
from deepprune.traces.rows import read_rows
from deepprune.traces.source import SourceFile
from deepprune.traces.spool import Spool
from deepprune.traces.store import TraceStore
from deepprune.traces.tokens import TOKENIZER, token_ends

IMPORTER_VERSION = 6
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

    Texts and tokens wait in a temporary file beside the store until the answers of all traces are
    classed: memory holds the other columns, and a few texts.

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
    left_out: list[str] | None = [] if skip_bad else None
    source = _source(paths, format, given, dataset, model, left_out, note)
    with _published(out) as folder, Spool(folder) as spool:
        traces, extracted = _read(source, answers, spool, report)
        _tell_left_out(left_out or (), len(traces), note)
        traces, style = _with_answers(paths[0], source, traces, extracted, answers, spool)
        traces, counts = class_answers(
            traces,
            report,
            has_classes=source.has_classes,
            has_forced_classes=source.has_forced_classes,
        )
        _question_agreement(traces, note)
        options = {"fields": given, "dataset": dataset, "model": model, "skip_bad": skip_bad}
        store = TraceStore.create(
            folder / "store",
            token_counter=source.token_counter or TOKENIZER,
            answers=style,
            sampling=sampling,
            provenance=_provenance(paths, source.format, options),
        )
        traces.sort(key=lambda trace: trace.key)
        whole: Iterator[Trace] = map(spool.get, traces)
        if source.token_counter is None:
            whole = _with_tokens(whole, len(traces), report)
        store.append_sorted(whole, **counts)
    return TraceStore.open(out)


def _provenance(paths: Sequence[Path], format: str, options: Mapping[str, Any]) -> dict[str, Any]:
    hashes = {path.name: sha256_file(path) for path in paths}
    return {
        **({"file": paths[0].name, "sha256": hashes[paths[0].name]} if len(paths) == 1 else {}),
        **({"files": hashes} if len(paths) > 1 else {}),
        "importer": format,
        "importer_version": IMPORTER_VERSION,
        "options": {name: value for name, value in options.items() if value},
    }


def _bad(left_out: list[str] | None, error: InputError) -> None:
    """Remember what is wrong with a record that is left out; raise it if none may be."""
    if left_out is None:
        raise InputError(f"{error} (--skip-bad leaves such records out.)") from error
    left_out.append(str(error))


def _tell_left_out(left_out: Sequence[str], n_read: int, note: Note) -> None:
    for reason in left_out[:_MAX_NAMED]:
        note(f"left out: {reason}")
    if left_out:
        note(f"{len(left_out)} bad records left out, {n_read} traces read.")


def _source(
    paths: Sequence[Path],
    format: str,
    fields: dict[str, str],
    dataset: str | None,
    model: str | None,
    left_out: list[str] | None,
    note: Note,
) -> SourceFile:
    """Open the files by the reader of their format; ``left_out`` receives bad records."""
    bad = partial(_bad, left_out)
    records, ahead = tee(record for path in paths for record in read_records(path, bad))
    path, name = paths[0], _format_of(paths[0], format, fields, ahead)
    del ahead  # it would keep all records
    is_stored = name in STORED
    if not is_stored and name != "parallel-probe":
        return read_rows(records, name, fields, dataset=dataset, model=model, bad=bad, note=note)
    given = {
        "--field": fields,
        "--skip-bad": left_out is not None,
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
    if is_stored:
        return read_parquet(path, name)
    return read_parallel_probe(records, path, dataset, model)


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


def _read(
    source: SourceFile, answers: str | None, spool: Spool, report: OnProgress
) -> tuple[list[Trace], list[str | None]]:
    """Read the traces without their long columns, which go to the spool, and extract answers.

    Whether a file has answers may be known only at its end, so traces without are extracted from.
    """
    style = AnswerStyle.AUTO.value if answers is None else answers
    traces: list[Trace] = []
    extracted: list[str | None] = []
    for trace in source.traces:
        is_kept = answers == SOURCE or (answers is None and (source.answers or trace.answer))
        extracted.append(None if is_kept else extract_answer(trace.text, style))
        traces.append(spool.put(trace))
        report("traces", len(traces), None)
    report("traces", len(traces), len(traces))
    return traces, extracted


def _with_answers(
    path: Path,
    source: SourceFile,
    traces: list[Trace],
    extracted: Sequence[str | None],
    answers: str | None,
    spool: Spool,
) -> tuple[list[Trace], str]:
    """Give the traces the extracted answers unless those of the file are kept; return the style."""
    if not traces:
        raise InputError(f"{str(path)!r} has no traces.")
    if answers == SOURCE and source.answers is None:
        raise InputError(
            f"--answers source needs answers in the file, {str(path)!r} has none: choose a style, "
            f"{', '.join(AnswerStyle)}."
        )
    if answers in (None, SOURCE) and source.answers is not None:
        return traces, source.answers if source.has_classes else SOURCE
    style = answers or AnswerStyle.AUTO.value
    if not len(spool):
        raise InputError(
            f"{str(path)!r} has no texts to extract answers from by the style {style!r}"
            + (": leave out --answers." if source.answers is not None else ".")
        )
    source.has_classes = source.has_forced_classes = False
    return [replace(t, answer=a) for t, a in zip(traces, extracted, strict=True)], style


def _with_tokens(traces: Iterable[Trace], total: int, report: OnProgress) -> Iterator[Trace]:
    """Count the tokens of each trace, a few traces ahead."""
    traces, ahead = tee(traces)
    ends = token_ends(trace.text for trace in ahead)
    for done, (trace, end) in enumerate(zip(traces, ends, strict=True), 1):
        yield replace(trace, token_end=cast(Sequence[int], end), n_tokens=len(end))
        report("tokens", done, total)


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``out``; at the end rename ``store`` in it to ``out``.

    Raises:
        InputError: If another process has created a store there meanwhile; that one stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
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
