"""The manifest of a trace store: counts, provenance and the hash of every part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepprune import __version__
from deepprune.core.errors import InputError
from deepprune.core.files import write_atomic
from deepprune.traces.schema import SCHEMA_VERSION

FORMAT = "deepprune-traces"
MANIFEST = "manifest.json"

GENERATOR = "generator"
"""Token counter of a store whose token offsets come from the generating model."""

NO_SEEDS = (
    "seeds do not decide these traces: requests had none, by engine.omit or because the server "
    "refuses them."
)

SOURCE = "source"
"""Answer style of a store whose answers were copied from its source."""


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a store."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes:
        token_counter: ``generator``, or the name of the tokenizer that counted afterwards.
        answers: The style by which answers were extracted, or ``source``.
        n_questions: Distinct ``(dataset, question_id)``.
        n_traces: Rows over all parts.
        n_tokens: Tokens over all traces.
        n_without_text: Traces whose text is empty or was not recorded (0 in schema version 1).
        conflicts: Pairs of distinct final answers in one class that differ in direct comparison.
        timeouts: Comparisons of answers that timed out and count as different.
        timed_out: ``dataset/question_id`` of the questions in which one timed out.
        sampling: Known sampling parameters.
        provenance: Source file, its SHA-256, importer and options; empty for collected traces.
        parts: The files of the store, in order of their appending.
        created_by: Name and version of the program that created the store.
        schema_version: Version of the rows' schema; the newest if parts differ.
    """

    token_counter: str
    answers: str
    n_questions: int = 0
    n_traces: int = 0
    n_tokens: int = 0
    n_without_text: int = 0
    conflicts: int = 0
    timeouts: int = 0
    timed_out: Sequence[str] = field(default_factory=list)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    created_by: str = f"deepprune {__version__}"
    schema_version: int = SCHEMA_VERSION

    @property
    def content_hash(self) -> str:
        """SHA-256 over the hashes of the parts, in order: the identity of the contents."""
        return hashlib.sha256("".join(f"{p.sha256}\n" for p in self.parts).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Replace the manifest of ``folder``, atomically."""
        record = {"format": FORMAT, **asdict(self), "content_hash": self.content_hash}
        write_atomic(folder / MANIFEST, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a store.

    Raises:
        InputError: If the folder does not exist, is not a store, or a newer version wrote it.
    """
    path = folder / MANIFEST
    if not folder.exists():
        raise InputError(f"a trace store must be a folder that exists, got {str(folder)!r}.")
    if not path.is_file():
        raise InputError(
            f"{str(folder)!r} is not a trace store: it has no {MANIFEST}. "
            "Create one with 'deepprune traces import FILE --out FOLDER'."
        )
    try:
        record = json.loads(path.read_text("utf-8"))
        is_ours = record.pop("format") == FORMAT
    except (ValueError, LookupError, AttributeError, TypeError):
        is_ours = False
    if not is_ours:
        raise InputError(f"{str(path)!r} is not the manifest of a trace store ({FORMAT}).")
    if (version := record.get("schema_version", 0)) > SCHEMA_VERSION:
        raise InputError(
            f"{str(folder)!r} has schema version {version}, this deepprune reads versions up to "
            f"{SCHEMA_VERSION}. Install a newer deepprune ({record.get('created_by')} wrote it)."
        )
    stated_hash = record.pop("content_hash", None)
    try:
        parts = tuple(Part(**part) for part in record.pop("parts"))
        manifest = Manifest(parts=parts, **record)
    except (LookupError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}. Import the traces again.") from None
    if manifest.content_hash != stated_hash:
        raise InputError(
            f"{str(path)!r} was edited: its content_hash does not match its parts. "
            "Import the traces again."
        )
    return manifest


def check_free(path: Path) -> None:
    """Check that a new store can be created at ``path``.

    Raises:
        InputError: If it is a file, a store, or a folder with other contents.
    """
    if not path.exists():
        return
    if path.is_dir() and (path / MANIFEST).exists():
        raise InputError(f"{str(path)!r} is a trace store already. Choose another folder.")
    names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    # `files.replacing` may leave ".NAME.tmp" after a crash.
    others = [n for n in names if n != "README.md" and not (n[0] == "." and n.endswith(".tmp"))]
    if others or not path.is_dir():
        raise InputError(
            f"a new trace store needs a folder of its own, but {str(path)!r} "
            + (f"contains {others[0]!r}." if others else "is a file.")
        )
