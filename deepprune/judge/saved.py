"""The folder of a trained judge: ``judge.json`` beside its weights, written and read here alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.protocols import TEXT_ALONE, Need
from deepprune.core.types import PrefixRule
from deepprune.data.prefixes import FirstTokens, Fraction, ReasoningWords
from deepprune.judge.calibration import Platt

FORMAT = 2
RECORD, WEIGHTS = "judge.json", "weights.safetensors"
CROSS_ENCODER, LINEAR = "cross_encoder", "linear"
"""Values of ``SavedJudge.kind``."""

_ENDED = {
    "features": "train model=linear",
    "bi_encoder": "train model=linear",
    "probe": "train model=linear model.groups=[forced_answers]",
    "cascade": "give both of its judges to judge=cascade",
}
"""Kinds that older versions wrote, and what to do instead."""

_RULES: dict[str, Callable[..., PrefixRule]] = {
    rule.__name__: rule for rule in (FirstTokens, ReasoningWords, Fraction)
}


@dataclass(frozen=True, slots=True)
class SavedJudge:
    """Contents of ``judge.json``.

    Attributes:
        kind: ``cross_encoder`` or ``linear``.
        name: Short name for tables.
        needs: What the judge reads of the traces.
        settings: JSON values from which the kind builds its model.
        calibration: Logits to scores.
        prefix_rule: The prefixes it was trained on, where known.
        seen_questions: Hashes of the training and validation questions.
        training: JSON values about the training.
        fingerprint: Identifies the scoring function.
        files: sha256 of the other files of the folder, by their paths in it.
    """

    kind: str
    name: str
    needs: frozenset[Need]
    settings: Mapping[str, Any]
    calibration: Platt
    prefix_rule: PrefixRule | None
    seen_questions: frozenset[str]
    training: Mapping[str, Any]
    fingerprint: str
    files: Mapping[str, str] = field(default_factory=dict)


def write_judge(folder: Path, record: SavedJudge, write_files: Callable[[Path], None]) -> Path:
    """Write a judge's folder beside its place, sync it, then rename it into place.

    Args:
        folder: Where to; it must not exist.
        record: What to say of the judge; its ``files`` are filled in.
        write_files: Writes weights, and whatever else the kind needs, into the folder it is given.

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
        write_files(temporary)
        files = sorted(filter(Path.is_file, temporary.rglob("*")))
        hashes = {str(file.relative_to(temporary)): sha256_file(file) for file in files}
        values = _to_json(replace(record, files=hashes))
        (temporary / RECORD).write_text(json.dumps(values, indent=1) + "\n")
        for file in (*files, temporary / RECORD):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def read_record(folder: Path) -> SavedJudge:
    """Read ``judge.json``; weights stay unread.

    Raises:
        InputError: If it is missing, damaged, of another format, or of a removed kind.
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
    found = values.get("format") if isinstance(values, dict) else None
    if found not in (1, FORMAT):
        raise InputError(
            f"{folder / RECORD} must have format {FORMAT}, got {found}: export again with this "
            "version."
        )
    if (kind := values.get("kind")) in _ENDED:
        raise InputError(
            f"the judge in {folder} cannot be read: kind {kind} ended with 0.2: {_ENDED[kind]}."
        )
    try:
        return _from_json(_of_format_1(values) if found == 1 else values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, error) from error


def check_files(folder: Path, record: SavedJudge) -> None:
    """Check that the files of an export are as they were written.

    Raises:
        InputError: If one is missing or has changed.
    """
    for name, sha256 in record.files.items():
        if not (file := folder / name).is_file():
            raise InputError(f"an export needs {name}, missing in {folder}: export again.")
        if (found := sha256_file(file)) != sha256:
            raise InputError(
                f"{file} must have sha256 {sha256}, got {found}: it changed after the export; "
                "export again."
            )


def damaged(folder: Path, error: Exception) -> InputError:
    """The error to raise where ``judge.json`` has missing or wrong values."""
    return InputError(f"{folder / RECORD} is damaged ({error!r}): export again.")


def _to_json(record: SavedJudge) -> dict[str, Any]:
    rule: Any = record.prefix_rule
    return {
        "format": FORMAT,
        "kind": record.kind,
        "name": record.name,
        "needs": sorted(record.needs),
        "settings": dict(record.settings),
        "calibration": record.calibration.to_json(),
        "prefix_rule": None if rule is None else {"rule": type(rule).__name__, **asdict(rule)},
        "seen_questions": sorted(record.seen_questions),
        "training": dict(record.training),
        "fingerprint": record.fingerprint,
        "files": dict(record.files),
    }


def _from_json(values: Mapping[str, Any]) -> SavedJudge:
    rule = values["prefix_rule"]
    if rule is not None:
        fields = dict(rule)
        rule = _RULES[fields.pop("rule")](**fields)
    return SavedJudge(
        kind=values["kind"],
        name=values["name"],
        needs=frozenset(map(Need, values["needs"])),
        settings=values["settings"],
        calibration=Platt.from_json(values["calibration"]),
        prefix_rule=rule,
        seen_questions=frozenset(values["seen_questions"]),
        training=values["training"],
        fingerprint=values["fingerprint"],
        files=dict(values["files"]),
    )


def _of_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """A cross-encoder's record as 0.1 wrote it, in today's shape."""
    settings = {k: values[k] for k in ("backbone", "encoder", "symmetric", "frozen_digest")}
    return {
        **values,
        "kind": CROSS_ENCODER,
        "needs": sorted(TEXT_ALONE),
        "settings": settings,
        "files": {WEIGHTS: values["weights_sha256"]},
    }
