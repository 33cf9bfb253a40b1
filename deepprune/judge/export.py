"""The folder of a trained judge: what is in it, and refusing a changed one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.types import PrefixRule
from deepprune.judge.calibration import Calibration, calibration_from_json
from deepprune.judge.network.backbones import (
    Backbone,
    Lora,
    PairClassifier,
    build_classifier,
    load_model,
)
from deepprune.judge.saved import (
    FORMAT,
    RECORD,
    check_backbone,
    checked_file,
    damaged,
    read_record,
    rule_from_json,
    rule_to_json,
    write_folder,
    write_json,
)

_WEIGHTS, _CONFIG = "weights.safetensors", "config.json"
_SCORED = ("source", "revision", "pooling", "head", "dtype", "lora")  # of a backbone's settings
_SAMPLED = 64  # values of each frozen tensor that identify a backbone


@dataclass(frozen=True, slots=True)
class JudgeExport:
    """``judge.json``, without what is derived from the weights.

    Attributes:
        name: Short name for tables.
        backbone: What the model was built from.
        encoder: ``PairEncoder.to_dict``.
        calibration: Logits to scores.
        symmetric: Whether both orders are averaged.
        seen_questions: Hashes of training and validation questions.
        prefix_rule: The prefixes it was trained on, where known.
        training: Where it came from, JSON values.
    """

    name: str
    backbone: Backbone
    encoder: dict[str, Any]
    calibration: Calibration
    symmetric: bool
    seen_questions: frozenset[str]
    prefix_rule: PrefixRule | None = None
    training: dict[str, Any] = field(default_factory=dict)


class ReadExport(NamedTuple):
    """An export read back."""

    record: JudgeExport
    model: PairClassifier
    tokenizer: Any


def write_export(folder: Path, record: JudgeExport, model: PairClassifier, tokenizer: Any) -> Path:
    """Write a judge's folder beside its place, sync it, then rename it into place.

    Raises:
        InputError: If the folder exists.
    """

    def fill(temporary: Path) -> None:
        save_file(_saved_tensors(model, record.backbone), temporary / _WEIGHTS)
        tokenizer.save_pretrained(temporary)
        if record.backbone.lora is None:
            config = {k: v for k, v in _config(model).items() if k != "_name_or_path"}
            write_json(temporary / _CONFIG, config)
        values = _to_json(record) | {
            "weights_sha256": sha256_file(temporary / _WEIGHTS),
            "frozen_digest": frozen_digest(model) if record.backbone.lora else None,
            "fingerprint": scoring_fingerprint(record, model, "float32"),
        }
        write_json(temporary / RECORD, values)

    return write_folder(folder, fill)


def read_export(folder: Path, expected_backbone: str | None = None) -> ReadExport:
    """Read and check a judge's folder.

    Raises:
        InputError: If files are missing or changed, or the backbone is another one.
    """
    values = read_record(folder)
    record = _from_json(values, folder)
    source = record.backbone.source
    check_backbone(folder, source, expected_backbone)
    if record.backbone.lora is None and not (folder / _CONFIG).is_file():
        raise InputError(f"an export needs {_CONFIG}, missing in {folder}: export again.")
    checked_file(folder, _WEIGHTS, values["weights_sha256"])
    if record.backbone.lora is None:
        encoder = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(folder)
        ).to(getattr(torch, record.backbone.dtype))
        model = build_classifier(encoder, record.backbone)
    else:
        # Code from the hub runs only where the user says so, never because an export does.
        model = load_model(replace(record.backbone, trust_remote_code=False))
        if frozen_digest(model) != values["frozen_digest"]:
            raise InputError(
                f"the adapters in {folder} were trained on other weights than {source!r} now has: "
                "pin backbone.revision, or restore the folder they were trained from."
            )
    _load_tensors(model, folder / _WEIGHTS, partial=record.backbone.lora is not None)
    return ReadExport(record, model, AutoTokenizer.from_pretrained(folder))


def scoring_fingerprint(record: JudgeExport, model: PairClassifier, precision: str) -> str:
    """What scores depend on, hashed: weights, backbone, encoding, calibration, order, precision."""
    backbone = asdict(record.backbone)
    settings = {
        "backbone": {k: backbone[k] for k in _SCORED},
        "encoder": record.encoder,
        "calibration": record.calibration.to_json(),
        "symmetric": record.symmetric,
        "precision": precision,
    }
    if record.backbone.lora is not None:
        settings["frozen"] = frozen_digest(model)
    own = _own_tensors(model, record.backbone)
    return tensors_digest(own, json.dumps(settings, sort_keys=True, default=list))


def tensors_digest(tensors: Mapping[str, Tensor], settings: str) -> str:
    """Identifies tensors, to the last value, and settings: 32 hexadecimal digits."""
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()


def _own_tensors(model: PairClassifier, backbone: Backbone) -> dict[str, Tensor]:
    """Everything, or with LoRA the trained part."""
    state: dict[str, Tensor] = model.state_dict()
    if backbone.lora is None:
        return state
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in trained}


def _saved_tensors(model: PairClassifier, backbone: Backbone) -> dict[str, Tensor]:
    """Contiguous CPU copies that share no memory."""
    own = _own_tensors(model, backbone)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in own.items()}


def _load_tensors(model: PairClassifier, path: Path, *, partial: bool) -> None:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} must be a safetensors file ({error}): export again.") from error
    state = model.state_dict()
    expected = {name for name, p in model.named_parameters() if p.requires_grad or not partial}
    wrong = sorted(expected - set(tensors)) or sorted(
        name for name, t in tensors.items() if name not in state or state[name].shape != t.shape
    )
    if wrong:
        raise InputError(
            f"{path} must fit the model that judge.json describes, got {wrong[0]!r} amiss."
        )
    model.load_state_dict(tensors, strict=False)


def frozen_digest(model: nn.Module) -> str:
    """Identifies frozen weights by a few values of each tensor: enough to tell two models apart."""
    digest = hashlib.blake2b(digest_size=16)
    for name, p in sorted(model.named_parameters(), key=lambda item: item[0]):
        if not p.requires_grad:
            flat = p.detach().flatten()
            stride = max(1, flat.numel() // _SAMPLED)
            digest.update(f"{name}{p.dtype}{tuple(p.shape)}".encode())
            digest.update(_bytes(flat[::stride][:_SAMPLED].cpu()))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _config(model: PairClassifier) -> dict[str, Any]:
    config: Any = model.encoder.config
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return values


def _to_json(record: JudgeExport) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": record.name,
        "backbone": asdict(record.backbone),
        "encoder": record.encoder,
        "calibration": record.calibration.to_json(),
        "symmetric": record.symmetric,
        "prefix_rule": rule_to_json(record.prefix_rule),
        "seen_questions": sorted(record.seen_questions),
        "training": record.training,
    }


def _from_json(values: Mapping[str, Any], folder: Path) -> JudgeExport:
    try:
        backbone = dict(values["backbone"])
        if backbone["lora"] is not None:
            backbone["lora"] = Lora(**backbone["lora"])
        return JudgeExport(
            name=values["name"],
            backbone=Backbone(**backbone),
            encoder=values["encoder"],
            calibration=calibration_from_json(values["calibration"]),
            symmetric=values["symmetric"],
            seen_questions=frozenset(values["seen_questions"]),
            prefix_rule=rule_from_json(values["prefix_rule"]),
            training=values["training"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, error) from error
