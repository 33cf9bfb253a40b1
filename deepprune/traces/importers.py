"""Import a file of traces into a store: count tokens, extract answers, assign their classes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from deepprune.answers import AnswerStyle, extract_answer
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file, sync_folder
from deepprune.traces.classes import class_answers
from deepprune.traces.formats import FORMATS, SUFFIXES, SourceFile, read_parquet
from deepprune.traces.jsonl import read_jsonl
from deepprune.traces.manifest import SOURCE, check_free
from deepprune.traces.parallel_probe import read_parallel_probe
from deepprune.traces.progress import OnProgress
from deepprune.traces.store import TraceStore
from deepprune.traces.tokens import TOKENIZER, token_ends

IMPORTER_VERSION = 3
"""Incremented when an importer gives other rows for the same file, to renew cached imports."""


def import_file(
    path: Path | str,
    out: Path | str,
    *,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    answers: str | None = None,
    dataset: str | None = None,
    model: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> TraceStore:
    """Import a file of traces into a new store, completely or not at all.

    The whole file is read into memory: answer classes need all traces of a question.

    Args:
        path: A file of one of the `FORMATS`.
        out: Folder of the new store.
        format: One of `FORMATS`, or ``auto``.
        fields: JSON lines only: deepprune's field name -> name in the file.
        answers: A style of `extract_answer`, or ``source`` to keep the file's answers; by default
            ``source`` if the file has answers, else ``auto``.
        dataset: The dataset of JSON lines that name none, or of format ``parallel_probe``; by
            default the file's name without its suffix.
        model: The model of JSON lines that name none, or of format ``parallel_probe``, where it is
            by default the file's name without its suffix.
        sampling: Sampling parameters, for the manifest.
        on_progress: Called while tokens are counted and answers compared.

    Raises:
        InputError: If the file, an option or the folder cannot be used.
    """
    path, out, given = Path(path), Path(out), dict(fields or {})
    if answers not in (None, SOURCE):
        extract_answer("", answers)  # refuses an unknown style before the file is read
    check_free(out)
    report = on_progress or (lambda stage, done, total: None)
    source, style = _with_answers(path, _read(path, format, given, dataset, model), answers)
    source = _with_tokens(source, report)
    traces, counts = class_answers(source, report)
    options = {"fields": given, "dataset": dataset, "model": model}
    provenance = {
        "file": path.name,
        "sha256": sha256_file(path),
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
    path: Path, format: str, fields: dict[str, str], dataset: str | None, model: str | None
) -> SourceFile:
    if not path.is_file():
        raise InputError(f"traces must be a file that exists, got {str(path)!r}.")
    if format not in ("auto", *FORMATS):
        advice = " (its name is parallel_probe now)" if format == "probes" else ""
        raise InputError(f"format must be auto, {', '.join(FORMATS)}, got {format!r}{advice}.")
    if format == "auto" and path.suffix not in SUFFIXES:
        raise InputError(
            f"a file of traces must end in {', '.join(SUFFIXES)}, got {str(path)!r}. For another "
            f"name use 'deepprune traces import --format' with {', '.join(FORMATS)}."
        )
    format = SUFFIXES[path.suffix] if format == "auto" else format
    if format == "jsonl":
        return read_jsonl(path, fields, dataset, model)
    if fields:
        raise InputError(f"--field is for JSON lines; the fields of {str(path)!r} are fixed.")
    if format == "parallel_probe":
        return read_parallel_probe(path, dataset, model)
    given = {"--dataset": dataset, "--model": model}
    if unused := [option for option, value in given.items() if value]:
        raise InputError(
            f"{unused[0]} is for JSON lines and parallel_probe; leave it out for {str(path)!r}, "
            "which has a column for it."
        )
    return read_parquet(path, format)


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
