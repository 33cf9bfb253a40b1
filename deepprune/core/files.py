"""Atomic writes and hashes of files."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk."""

_PLACES = ("path", "model", "tokenizer", "traces")  # options that name a file or folder
_SAMPLE = 65_536  # bytes at either end of a file that tell two large ones apart


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; rename it to ``path`` at the end.

    If the body raises, the temporary file is removed. After a crash it may remain, hidden, until
    the next write to the same path replaces it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path``, completely or not at all; create the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def as_json(value: Any) -> Any:
    """Convert to what JSON can hold: NaN to null, tuples to lists."""
    if isinstance(value, Mapping):
        return {name: as_json(v) for name, v in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, indented, with NaN as null."""
    write_atomic(path, json.dumps(as_json(value), indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; nothing where it is missing."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; none where it is missing, and not the one being written."""
    if not path.exists():
        return []
    whole = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in whole if line.endswith(b"\n")]


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename inside it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_paths(values: Any) -> Any:
    """Replace absolute paths in JSON values by their last part, for files that are published.

    Beside the name of a ``model``, ``path`` and the like on this machine stands its hash,
    ``model_sha256``.
    """
    if isinstance(values, list):
        return [without_paths(value) for value in values]
    if isinstance(values, dict):
        places = {n: os.path.expanduser(values[n]) for n in _PLACES if values.get(n)}
        there = {name: Path(place) for name, place in places.items() if os.path.exists(place)}
        hashes = {f"{name}_sha256": sampled_sha256(path) for name, path in there.items()}
        return {name: without_paths(value) for name, value in values.items()} | hashes
    return name_of(values) if isinstance(values, str) else values


def name_of(path: str) -> str:
    """Return the last part of an absolute path; any other text as it is."""
    return Path(path).name if os.path.isabs(os.path.expanduser(path)) else path


def sampled_sha256(path: Path, pattern: str = "**/*") -> str:
    """Hash a file; of a folder the names, sizes, first and last bytes of the files of a pattern."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.glob(pattern)):
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
            with file.open("rb") as handle:
                digest.update(handle.read(_SAMPLE))
                handle.seek(max(0, size - _SAMPLE))
                digest.update(handle.read())
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
