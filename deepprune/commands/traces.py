"""``deepprune traces``: import traces into a store, summarise a store, check it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.traces.formats import FORMATS
from deepprune.traces.manifest import NO_SEEDS, Manifest
from deepprune.traces.opening import open_traces
from deepprune.traces.progress import import_progress, print_note
from deepprune.traces.records import COMPRESSIONS, SUFFIXES
from deepprune.traces.rows import FIELDS
from deepprune.traces.store import TraceStore
from deepprune.traces.summary import TraceSummary, summarise

_PLAIN_WIDTH = 140  # characters, if the output is not a terminal
_MANY_SILENT = 0.2  # share of traces without an answer that is worth a note


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``deepprune traces`` and return the exit code.

    Raises:
        InputError: If a path or an option cannot be used.
        SystemExit: If the command line cannot be parsed (code 2), or after help (code 0).
    """
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepprune traces", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="{import,formats,show,check}")
    make = commands.add_parser(
        "import",
        help="import files of traces into a new store",
        description="Import files of traces into a new store: count tokens, class answers.",
    )
    formats = commands.add_parser("formats", help="list the formats that can be imported")
    show = commands.add_parser("show", help="summarise a store")
    check = commands.add_parser("check", help="read everything and compare it with the manifest")
    for command, run in ((make, _import), (formats, _formats), (show, _show), (check, _check)):
        command.set_defaults(run=run)
    _add_import_options(make)
    for command in (show, check):
        command.add_argument(
            "path", metavar="PATH", help="'pool', a store folder, or a file of traces"
        )
    show.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=f"a file ({', '.join(SUFFIXES)}; JSON lines also with {', '.join(COMPRESSIONS)}), a "
        "folder, a glob, or - for JSON lines from standard input",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder of the new store"
    )
    parser.add_argument(
        "--format",
        default="auto",
        metavar="FORMAT",
        help="one of 'deepprune traces formats'; by default recognised by the first record",
    )
    parser.add_argument(
        "--field",
        **several,
        metavar="OURS=THEIRS",
        help="name of a field in the file; dots separate nested keys, numbers count from 0 or from "
        "the end (messages.-1.content), * stands for all items; fields: " + ", ".join(FIELDS),
    )
    parser.add_argument(
        "--answers",
        metavar="STYLE",
        help="extract answers by this style (auto, boxed, answer_is, gsm8k, choice), or 'source' "
        "to keep those of the file (the default if it has any)",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="dataset of records that name none; by default the file's name",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="model of records that name none (of parallel-probe by default the file's name)",
    )
    parser.add_argument(
        "--sampling",
        **several,
        metavar="KEY=VALUE",
        help="sampling parameters for the manifest, e.g. temperature=0.6",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out records that cannot be read, say which"
    )


def _import(arguments: argparse.Namespace) -> int:
    from deepprune.traces.importers import import_file

    with (
        tempfile.TemporaryDirectory() as folder,
        import_progress(Path(arguments.files[0]).name) as on_progress,
    ):
        store = import_file(
            [_standard_input(folder) if name == "-" else name for name in arguments.files],
            arguments.out,
            format=arguments.format,
            fields=_pairs("--field", arguments.field),
            answers=arguments.answers,
            dataset=arguments.dataset,
            model=arguments.model,
            sampling={k: _value(v) for k, v in _pairs("--sampling", arguments.sampling).items()},
            skip_bad=arguments.skip_bad,
            on_progress=on_progress,
            note=print_note,
        )
    print_summary(store)
    return 0


def _standard_input(folder: str) -> Path:
    path = Path(folder) / "stdin.jsonl"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _formats(arguments: argparse.Namespace) -> int:
    for name, format in FORMATS.items():
        print(f"{name:15} {format.what}")
    print("Their fields, and how a file is recognised: docs/import.md.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    store = open_traces(arguments.path)
    if not arguments.json:
        print_summary(store)
        return 0
    record = {
        "path": str(store.path),
        **asdict(store.manifest),
        "content_hash": store.content_hash,
        "summary": [asdict(row) for row in summarise(store)],
    }
    print(json.dumps(record, indent=2))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    is_store = Path(arguments.path).is_dir()
    store = TraceStore.open(arguments.path) if is_store else open_traces(arguments.path)
    problems = store.check()
    for problem in problems:
        print(problem)
    if problems:
        print(f"{store.path}: {len(problems)} problem(s).")
        return 1
    manifest = store.manifest
    if manifest.timed_out:
        print(
            f"Classes depend on a comparison that timed out, and counts as different, in "
            f"{len(manifest.timed_out)} question(s): {', '.join(manifest.timed_out)}."
        )
    print(f"{store.path}: sound, {manifest.n_traces} traces in {len(manifest.parts)} part(s).")
    return 0


def _pairs(option: str, items: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals and value):
            raise InputError(f"{option} must be NAME=VALUE, got {item!r}.")
        if key in pairs:
            raise InputError(f"{option} {key} is given twice, as {pairs[key]!r} and {value!r}.")
        pairs[key] = value
    return pairs


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def print_summary(store: TraceStore) -> None:
    """Print a table by data set and model, the facts of the manifest, and the folder."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    manifest, rows = store.manifest, summarise(store)
    has_one_model = len(store.models) == 1
    table = Table(pad_edge=False, box=None, header_style="bold")
    table.add_column("dataset", overflow="fold")
    if not has_one_model:
        table.add_column("model", overflow="fold")
    numbers = ("questions", "traces", "tokens", "accuracy", "same\nanswer", "pass@1", "cons@N", "N")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        names = [row.dataset] if has_one_model else [row.dataset, row.model or "all models"]
        table.add_row(*map(escape, names), *_cells(row))
    console.print(table)
    n_answered = sum(row.answered * row.traces for row in rows if row.model is not None)
    silent = 1 - n_answered / manifest.n_traces
    facts = {
        "model": store.models[0] if has_one_model else None,
        "text": _text(manifest),
        "tokens counted by": manifest.token_counter,
        "answers": f"{manifest.answers}, none in {silent:.1%} of traces",
        "conflicts": manifest.conflicts,
        "timeouts": manifest.timeouts,
        **manifest.sampling,
    }
    told = {k: v for k, v in facts.items() if v not in (None, "", [], {}) and "\n" not in str(v)}
    line = " · ".join(f"{name}: {value}" for name, value in told.items())
    console.print(f"{line}\nstore: {store.path}", markup=False, highlight=False, soft_wrap=True)
    if "seed" in manifest.sampling.get("omitted", ()):
        print_note(NO_SEEDS)
    if silent > _MANY_SILENT:
        print_note(
            f"{silent:.1%} of the traces have no answer by {manifest.answers!r}. Were they cut, or "
            "do they state it in another way? Import them with another --answers STYLE."
        )


def _text(manifest: Manifest) -> str | None:
    """Describe how many traces have text; ``None`` if all have."""
    n, total = manifest.n_without_text, manifest.n_traces
    return None if n == 0 else "none" if n == total else f"none for {n:,} of {total:,} traces"


def _cells(row: TraceSummary) -> list[str]:
    fractions = (row.accuracy, row.same_answer, row.pass_at_1, row.cons_at_n)
    return [
        f"{row.questions:,}",
        f"{row.traces:,}",
        f"{row.tokens:,}",
        *("-" if fraction is None else f"{fraction:.3f}" for fraction in fractions),
        f"{row.traces_per_question:g}",
    ]
