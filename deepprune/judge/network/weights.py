"""Weights of a cross-encoder on disk: all of them, or with LoRA the adapters and the head."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from deepprune.core.errors import InputError
from deepprune.core.files import name_of
from deepprune.judge.network.backbones import (
    Backbone,
    Lora,
    PairClassifier,
    build_classifier,
    load_model,
)
from deepprune.judge.saved import WEIGHTS

_CONFIG = "config.json"
_SCORED = ("source", "revision", "pooling", "head", "dtype", "lora")  # of a backbone's settings
_SAMPLED = 64  # values of each frozen tensor that identify a backbone


def write_model(folder: Path, model: PairClassifier, backbone: Backbone, tokenizer: Any) -> None:
    """Write weights, tokenizer, and the configuration where the weights are whole."""
    tensors = {  # contiguous CPU copies that share no memory
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in _own_tensors(model, backbone).items()
    }
    save_file(tensors, folder / WEIGHTS)
    tokenizer.save_pretrained(folder)
    if backbone.lora is None:
        config: Any = model.encoder.config
        values = json.loads(config.to_json_string(use_diff=False))
        values.pop("_name_or_path", None)
        (folder / _CONFIG).write_text(json.dumps(values, indent=1) + "\n")


def read_model(
    folder: Path, backbone: Backbone, frozen: str | None, words: Sequence[str]
) -> tuple[PairClassifier, Any]:
    """Read model and tokenizer that ``write_model`` wrote.

    ``frozen`` is the ``frozen_digest`` of a model that was trained with LoRA, ``words`` are those
    that a generative head compares.

    Raises:
        InputError: If a file is missing or does not fit, or the backbone has other weights.
    """
    if backbone.lora is None:
        if not (folder / _CONFIG).is_file():
            raise InputError(f"an export needs {_CONFIG}, missing in {folder}: export again.")
        encoder = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(folder),
            dtype=getattr(torch, backbone.dtype),  # .to() would round the rotary frequencies too
        )
        model = build_classifier(encoder, backbone)
    else:
        model = load_model(backbone, words)
        if frozen_digest(model) != frozen:
            raise InputError(
                f"the adapters in {folder} were trained on other weights than {backbone.source!r} "
                "now has: pin backbone.revision, or restore the folder they were trained from."
            )
    _load_tensors(model, folder / WEIGHTS, partial=backbone.lora is not None)
    return model, AutoTokenizer.from_pretrained(folder)


def backbone_to_json(backbone: Backbone) -> dict[str, Any]:
    """Return the backbone for an export, which has the name of a folder, not its place."""
    source = backbone.source
    name = Path(source).resolve().name if Path(source).is_dir() else name_of(source)
    return asdict(backbone) | {"source": name}


def backbone_from_json(values: Mapping[str, Any]) -> Backbone:
    """Read the backbone of an export; code from the hub runs only if the user allows it."""
    lora = None if values["lora"] is None else Lora(**values["lora"])
    return replace(Backbone(**{**values, "lora": lora}), trust_remote_code=False)


def model_identity(model: PairClassifier, backbone: Backbone) -> str:
    """Hash the weights and all of the backbone that logits depend on, 32 hexadecimal digits."""
    settings = backbone_to_json(backbone)
    # The digest below identifies frozen weights, whose folder may be moved.
    names = [name for name in _SCORED if name != "source" or backbone.lora is None]
    scored = json.dumps({name: settings[name] for name in names}, sort_keys=True, default=list)
    digest = hashlib.blake2b(scored.encode(), digest_size=16)
    if backbone.lora is not None:
        digest.update(frozen_digest(model).encode())
    for name, tensor in sorted(_own_tensors(model, backbone).items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()


def frozen_digest(model: nn.Module) -> str:
    """Identify frozen weights by a few values of each tensor: enough to tell two models apart."""
    digest = hashlib.blake2b(digest_size=16)
    for name, p in sorted(model.named_parameters(), key=lambda item: item[0]):
        if not p.requires_grad:
            flat = p.detach().flatten()
            stride = max(1, flat.numel() // _SAMPLED)
            digest.update(f"{name}{p.dtype}{tuple(p.shape)}".encode())
            digest.update(_bytes(flat[::stride][:_SAMPLED].cpu()))
    return digest.hexdigest()


def _own_tensors(model: PairClassifier, backbone: Backbone) -> dict[str, Tensor]:
    """Return all tensors, or with LoRA the trained ones."""
    state: dict[str, Tensor] = model.state_dict()
    if backbone.lora is None:
        return state
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in trained}


def _load_tensors(model: PairClassifier, path: Path, *, partial: bool) -> None:
    tensors, state = load_file(path), model.state_dict()
    expected = {name for name, p in model.named_parameters() if p.requires_grad or not partial}
    wrong = sorted(expected - set(tensors)) or sorted(
        name for name, t in tensors.items() if name not in state or state[name].shape != t.shape
    )
    if wrong:
        raise InputError(
            f"{path} must fit the model that judge.json describes; {wrong[0]!r} is missing or has "
            "another shape."
        )
    model.load_state_dict(tensors, strict=False)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
