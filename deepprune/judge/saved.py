"""The folder of a trained judge: ``judge.json`` beside its weights."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.files import name_of, sampled_sha256, sha256_file
from deepprune.core.protocols import TEXT_ALONE, Need
from deepprune.core.types import PrefixRule
from deepprune.data.prefixes import FirstTokens, Fraction, ReasoningWords
from deepprune.judge.calibration import Platt

FORMAT = 2
RECORD, WEIGHTS = "judge.json", "weights.safetensors"
CROSS_ENCODER, LINEAR = "cross_encoder", "linear"
"""Values of ``SavedJudge.kind``."""
_BACKBONE_FILES = "model*.safetensors"

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
        name: Name in tables.
        needs: Parts of the traces that the judge reads.
        settings: JSON values from which the kind builds its model.
        calibration: Logits to scores.
        prefix_rule: The prefixes it was trained on, where known.
        seen_questions: Hashes of the training and validation questions.
        training: JSON values about the training.
        fingerprint: Identifies the scoring function.
        files: sha256 of the other files, by their paths in the folder.
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

    ``write_files`` writes weights and other files of the kind into the folder that it is given;
    their hashes are added to the record.

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
    """Read ``judge.json``, not the weights.

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


def backbone_sha256(source: str) -> str | None:
    """Identify the weights in a local folder, in milliseconds; ``None`` for a name on the hub."""
    return sampled_sha256(Path(source), _BACKBONE_FILES) if Path(source).is_dir() else None


def link_backbone(folder: Path, source: str) -> None:
    """Link the folder of a backbone beside an export, where `find_backbone` finds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    (link := _backbone_link(folder)).unlink(missing_ok=True)
    link.symlink_to(Path(source).resolve(), target_is_directory=True)


def find_backbone(folder: Path, record: SavedJudge, given: str | None = None) -> SavedJudge:
    """Return the record of an export with the place of its backbone.

    An export of LoRA adapters has the name and the hash of a local backbone, not its folder. That
    is ``given``, else the link ``FOLDER.backbone`` beside the export, which training makes.

    Raises:
        InputError: If the backbone is missing or another one.
    """
    source = record.settings.get("backbone", {}).get("source")
    if (sha256 := record.settings.get("backbone_sha256")) is None:
        if given not in (None, source) and name_of(str(given)) != source:
            raise InputError(
                f"the judge in {folder} was trained from {source!r}, got backbone {given!r}: set "
                f"it to {source!r}, or load another export."
            )
        return record
    link = _backbone_link(folder)
    place = Path(given or link)
    if (found := backbone_sha256(str(place))) != sha256:
        what = f"sha256 {found[:12]}" if found else "no such folder"
        raise InputError(
            f"the adapters in {folder} need the backbone {source!r} with weights of sha256 "
            f"{sha256[:12]}, got {what} at {str(place)!r}: give its folder as "
            f"judge.backbone=FOLDER or, for any command, ln -sfn FOLDER {str(link)!r}."
        )
    backbone = {**record.settings["backbone"], "source": str(place.resolve())}
    return replace(record, settings={**record.settings, "backbone": backbone})


def _backbone_link(folder: Path) -> Path:
    folder = folder.resolve()
    return folder.with_name(f"{folder.name}.backbone")


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
    """Make the error for a ``judge.json`` with missing or wrong values."""
    return InputError(f"{folder / RECORD} is damaged ({error!r}): export again.")


def _to_json(record: SavedJudge) -> dict[str, Any]:
    rule: Any = record.prefix_rule
    return {
        "format": FORMAT,
        **{field.name: getattr(record, field.name) for field in fields(record)},
        "needs": sorted(record.needs),
        "calibration": record.calibration.to_json(),
        "prefix_rule": None if rule is None else {"rule": type(rule).__name__, **asdict(rule)},
        "seen_questions": sorted(record.seen_questions),
    }


def _from_json(values: Mapping[str, Any]) -> SavedJudge:
    known = {field.name: values[field.name] for field in fields(SavedJudge)}
    if (rule := known["prefix_rule"]) is not None:
        known["prefix_rule"] = _RULES[rule.pop("rule")](**rule)
    known["needs"] = frozenset(map(Need, known["needs"]))
    known["calibration"] = Platt.from_json(known["calibration"])
    known["seen_questions"] = frozenset(known["seen_questions"])
    return SavedJudge(**known)


def _of_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a cross-encoder's record of version 0.1."""
    settings = {k: values[k] for k in ("backbone", "encoder", "symmetric", "frozen_digest")}
    settings["encoder"].pop("padding_side", None)  # both sides gave the same logits
    return {
        **values,
        "kind": CROSS_ENCODER,
        "needs": sorted(TEXT_ALONE),
        "settings": settings,
        "files": {WEIGHTS: values["weights_sha256"]},
    }
