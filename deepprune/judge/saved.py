"""What the folders of all trained judges share: ``judge.json``, and writing a folder whole."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.protocols import TEXT_ALONE, Need
from deepprune.core.types import PrefixRule
from deepprune.data import prefixes

FORMAT = 1
RECORD = "judge.json"
CROSS_ENCODER, BI_ENCODER = "cross_encoder", "bi_encoder"
FEATURES, PROBE, CASCADE = "features", "probe", "cascade"
"""What ``kind`` says of a judge; a record without it is a cross-encoder's."""

CPU_KINDS = frozenset({FEATURES, PROBE})
"""Judges without a neural network."""


def write_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Let ``fill`` write into a folder beside its place, sync it, then rename it into place.

    Raises:
        InputError: If the folder exists.
    """
    if folder.exists():
        raise InputError(
            f"an export is never overwritten, and {folder} exists: give another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        fill(temporary)
        for file in filter(Path.is_file, temporary.rglob("*")):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """``judge.json`` of an export.

    Raises:
        InputError: If it is missing, damaged or of another format.
    """
    try:
        values = json.loads((folder / RECORD).read_text())
    except OSError as error:
        raise InputError(
            f"a judge's folder holds {RECORD}, and {folder} does not: give the folder that "
            "training exported."
        ) from error
    except ValueError as error:
        raise damaged(folder, error) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise InputError(
            f"{folder / RECORD} must have format {FORMAT}, got {found}: export again with this "
            "version."
        )
    return values


def needs_of(folder: Path) -> frozenset[Need]:
    """What the judge of an export reads of the traces, without loading it.

    Raises:
        InputError: If it is no export.
    """
    values = read_record(folder)
    try:
        return frozenset(map(Need, values.get("needs", TEXT_ALONE)))
    except (TypeError, ValueError) as error:
        raise damaged(folder, error) from error


def check_runs_on_cpu(folder: Path, device: str, backbone: str | None) -> None:
    """Refuse what a judge without a neural network cannot be given.

    Raises:
        InputError: If the device is not ``auto`` or ``cpu``, or a backbone is asked for.
    """
    if backbone is not None or device not in ("auto", "cpu"):
        raise InputError(
            f"the judge in {folder} has no backbone and runs on the CPU, got backbone "
            f"{backbone!r} and device {device!r}: leave them null and auto."
        )


def checked_file(folder: Path, name: str, sha256: str, what: str = "weights") -> Path:
    """A file of an export, as it was written; ``what`` it holds is for the error.

    Raises:
        InputError: If it is missing or has changed.
    """
    if not (file := folder / name).is_file():
        raise InputError(f"an export needs {name}, missing in {folder}: export again.")
    if (found := sha256_file(file)) != sha256:
        raise InputError(
            f"{file} must have sha256 {sha256}, got {found}: the {what} changed after the "
            "export; export again."
        )
    return file


def check_backbone(folder: Path, source: str, asked: str | None) -> None:
    """Refuse a judge that was trained from another backbone than the one asked for.

    Raises:
        InputError: If it was; ``None`` takes any.
    """
    if asked is not None and asked != source:
        raise InputError(
            f"the judge in {folder} was trained from {source!r}, got backbone {asked!r}: set it to "
            f"{source!r}, or load another export."
        )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON as exports have it."""
    path.write_text(json.dumps(values, indent=1, default=list) + "\n")


def damaged(folder: Path, error: Exception) -> InputError:
    """What to raise where ``judge.json`` is not as it was written."""
    return InputError(f"{folder / RECORD} is damaged ({error!r}): export again.")


def rule_to_json(rule: PrefixRule | None) -> dict[str, Any] | None:
    """A prefix rule by the name of its class and its fields."""
    dataclass: Any = rule
    return None if rule is None else {"rule": type(rule).__name__, **asdict(dataclass)}


def rule_from_json(values: Mapping[str, Any] | None) -> PrefixRule | None:
    """The rule that ``rule_to_json`` wrote."""
    if values is None:
        return None
    fields = dict(values)
    rule: PrefixRule = getattr(prefixes, fields.pop("rule"))(**fields)
    return rule
