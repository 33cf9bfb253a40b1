"""Read files as records: JSON lines, JSON, Parquet and archives of Inspect."""

from __future__ import annotations

import glob
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from deepprune.core.errors import InputError
from deepprune.traces.manifest import MANIFEST

SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".json", ".eval")
"""Files of records; also in upper case, JSON lines also with one of `COMPRESSIONS` after it."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_BATCH = 16  # rows of Parquet that are Python objects at a time
_DECORATION = re.compile(r"^(samples|details)_|_\d{4}-\d\d-\d\dT.*|-rs\d+$")
_CONVERT = (
    "import json, pickle, sys; r = pickle.load(sys.stdin.buffer); "
    "print(json.dumps({'question': r['question'], 'gold': r['ground_truth'], "
    "'text': [t['text'] for t in r['all_traces']], "
    "'finish_reason': [t['stop_reason'] for t in r['all_traces']]}))"
)


class Record(NamedTuple):
    """One line, row or item of a file.

    ``place`` names it in messages, ``dataset`` is the default name of its data set.
    """

    place: str
    fields: dict[str, Any]
    dataset: str


OnBad = Callable[[InputError], None]
"""Called with what is wrong with a record; raises, unless such records are left out."""


def find_files(names: Sequence[Path | str]) -> list[Path]:
    """Return the files of names, globs and folders, those of a glob or folder in sorted order.

    A folder stands for the files directly in it that have one of `SUFFIXES` other than ``.json``.

    Raises:
        InputError: If nothing is found, or a file is a pickle.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir() and (path / MANIFEST).exists():
            raise InputError(f"{str(name)!r} is a trace store already: it needs no import.")
        if path.is_dir():
            known = set(SUFFIXES) - {".json"}
            found = sorted(one for one in path.iterdir() if suffix_of(one) in known)
        elif path.is_file():
            found = [path]
        else:
            found = sorted(filter(Path.is_file, map(Path, glob.glob(str(name), recursive=True))))
        if not found:
            raise InputError(
                "traces must be a file that exists, a glob or a folder with such files "
                f"({', '.join(SUFFIXES)}), got {str(name)!r}."
            )
        files += found
    for path in files:
        if suffix_of(path) in (".pkl", ".pickle"):
            raise InputError(
                f"{str(path)!r} is a pickle: loading it can run any code, so it is never read. If "
                "you trust where it comes from, convert it (here as DeepConf writes it): python -c "
                f'"{_CONVERT}" < {path.name} > {path.stem}.jsonl'
            )
    return files


def suffix_of(path: Path) -> str:
    """Return the suffix in lower case, before that of a compression.

    >>> suffix_of(Path("a.JSONL.gz"))
    '.jsonl'
    """
    return Path(_uncompressed(path)).suffix.lower()


def dataset_of(path: Path) -> str:
    """Return the name of a file without suffixes, seed, time, and what other tools put before it.

    >>> dataset_of(Path("samples_gsm8k_2026-01-01T00-00-00.1.jsonl.gz"))
    'gsm8k'
    """
    stem = Path(_uncompressed(path)).stem
    return _DECORATION.sub("", stem) or stem


def _uncompressed(path: Path) -> str:
    return path.stem if path.suffix.lower() in COMPRESSIONS else path.name


def read_records(path: Path, bad: OnBad) -> Iterator[Record]:
    """Yield the records of a file of any kind; a file of unknown kind is read as JSON lines.

    Raises:
        InputError: If the file cannot be read.
    """
    dataset = dataset_of(path)
    match suffix_of(path):
        case ".parquet":
            rows = _parquet_rows(path)
        case ".json":
            rows = _json_items(path)
        case ".eval":
            rows = _archive(path)
        case _:
            rows = ((f"line {number}", line) for number, line in json_lines(path, bad))
    for place, fields in rows:
        yield Record(f"{path.name}, {place}", fields, dataset)


def json_lines(path: Path, bad: OnBad | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers, from 1, and JSON objects; skip empty lines.

    Raises:
        InputError: If the file cannot be read. If a line is not a JSON object, with the line
            number, unless ``bad`` is given to decide.
    """
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    yield number, _object(raw, f"{path.name}, line {number}")
                except InputError as error:
                    if bad is None:
                        raise
                    bad(error)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}. Get the file again.") from error


def _open(path: Path) -> BinaryIO:
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    stream = pa.input_stream(str(path), compression=compression)
    return io.BufferedReader(cast(io.RawIOBase, stream))


def _object(raw: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{place} must be a JSON object, got {str(value)[:40]!r}.")
    return value


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with readable(path):
        batches = pq.ParquetFile(path).iter_batches(_BATCH, use_threads=False)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"row {number}", row


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a Parquet file into an `InputError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{str(path)!r} cannot be read as Parquet: it is truncated, damaged or of another "
            f"format ({reason}). Get the file again, or name its format (--format)."
        ) from error


def _json_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list, or the samples of a log of Inspect."""
    try:
        items = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}.") from None
    log: dict[str, Any] = {}
    if isinstance(items, dict) and isinstance(items.get("samples"), list):
        log, items = {"eval": items.get("eval")}, items["samples"]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(
            f"{str(path)!r} must be a JSON list of objects or a log of Inspect, got a JSON "
            f"{type(items).__name__}. One JSON object per line is for a .jsonl file."
        )
    for number, item in enumerate(items, 1):
        yield f"item {number}", log | item


def _archive(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the samples of an ``.eval`` file, each with the ``eval`` of the header."""
    try:
        with zipfile.ZipFile(path) as archive:
            header = _object(archive.read("header.json"), f"{path.name}, header.json")
            for name in sorted(archive.namelist()):
                if name.startswith("samples/"):
                    sample = _object(archive.read(name), f"{path.name}, {name}")
                    yield name, {"eval": header.get("eval")} | sample
    except (zipfile.BadZipFile, KeyError, NotImplementedError, OSError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as a log of Inspect ({error}). Convert it to JSON: "
            "inspect log convert --to json --output-dir FOLDER FILE."
        ) from error
