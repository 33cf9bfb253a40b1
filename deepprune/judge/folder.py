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

from deepprune.data import prefixes
from deepprune.errors import InputError
from deepprune.types import PrefixRule

FORMAT = 1
RECORD = "judge.json"
CROSS_ENCODER, FEATURES = "cross_encoder", "features"
"""What ``kind`` says of a judge; a record without it is a cross-encoder's."""


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
        for file in temporary.iterdir():
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
