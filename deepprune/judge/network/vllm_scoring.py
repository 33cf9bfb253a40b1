"""A causal judge served by vLLM's pooling engine: its batching, kernels and prefix cache."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from deepprune.core.errors import InputError
from deepprune.core.protocols import FloatArray
from deepprune.judge.network.backbones import Backbone, PairClassifier
from deepprune.judge.network.cross_encoder import (
    CrossEncoderJudge,
    resolve_device,
    resolve_precision,
)
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.packing import PairTokens


class VllmJudge(CrossEncoderJudge):
    """A cross-encoder whose forward passes vLLM runs; pooling ``last`` only.

    vLLM reads a ``...ForSequenceClassification`` checkpoint with merged adapters from a temporary
    folder. The prompts are the token ids of our own encoder, sorted so that those of one
    representative follow each other: vLLM's prefix cache reads it once. The weights are in the
    engine's type (under transformers bfloat16 is autocast from their own), so that the backend is
    part of the fingerprint.

    Arguments are those of ``CrossEncoderJudge``, but ``device`` must be ``auto``, since vLLM
    computes on what it was built for, and ``gpu_memory_utilization`` is the share of the GPU's
    memory that vLLM takes, in (0, 1]: leave room for the engine that generates. ``model`` stays in
    host memory, for ``export`` and the fingerprint.

    Raises:
        InputError: If vLLM is not installed, the judge is not causal, or a device is given.
    """

    def __init__(
        self,
        model: PairClassifier,
        encoder: PairEncoder,
        backbone: Backbone,
        *,
        device: str = "auto",
        precision: str = "auto",
        gpu_memory_utilization: float = 0.9,
        **settings: Any,
    ) -> None:
        _check(backbone, device)
        from vllm import LLM

        accelerator = resolve_device("auto")
        precision = resolve_precision(precision, accelerator)
        super().__init__(model, encoder, backbone, device="cpu", precision=precision, **settings)
        self.precision = f"vllm {precision}"  # part of the fingerprint
        with tempfile.TemporaryDirectory() as folder:
            save_sequence_classifier(model, Path(folder))
            encoder.tokenizer.save_pretrained(folder)  # vLLM wants one, and is given token ids
            self._engine = LLM(
                model=folder,
                runner="pooling",
                convert="classify",
                enable_prefix_caching=True,
                enforce_eager=True,  # reads whole prefixes: graphs take minutes, save nothing
                disable_log_stats=True,
                dtype=precision,
                max_model_len=encoder.max_length,
                gpu_memory_utilization=gpu_memory_utilization,
                # vLLM's own 128 on a CPU would never cache a shorter representative
                block_size=32 if accelerator.type == "cpu" else None,
            )

    def _sequence_logits(self, sequences: Sequence[PairTokens]) -> FloatArray:
        from vllm import PoolingParams

        order = sorted(range(len(sequences)), key=lambda i: sequences[i].input_ids)
        outputs = self._engine.classify(
            [{"prompt_token_ids": sequences[i].input_ids} for i in order],
            pooling_params=PoolingParams(use_activation=False),
            use_tqdm=False,
        )
        logits: FloatArray = np.empty(len(sequences))
        logits[order] = [output.outputs.probs[0] for output in outputs]
        return logits


def save_sequence_classifier(model: PairClassifier, folder: Path) -> None:
    """Write a causal classifier as transformers' own checkpoint of it, adapters merged.

    ``AutoModelForSequenceClassification`` reads it, and gives the same logits for texts that do not
    end in the pad token.

    Raises:
        ValueError: If the model does not pool the last token.
    """
    if model.pooling != "last":
        raise ValueError(f"pooling must be last, got {model.pooling}: transformers has no other.")
    config: Any = model.encoder.config
    config = type(config).from_dict({**config.to_dict(), "num_labels": 1})
    with torch.device("meta"):
        whole = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
            config
        )
    whole.base_model.load_state_dict(merged_state(model.encoder), assign=True)
    whole.score.weight = nn.Parameter(model.head.weight.detach().cpu())
    whole.save_pretrained(folder)


def merged_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Return a backbone's weights by their original names, with LoRA's products added."""
    state = {name: t.detach() for name, t in encoder.state_dict().items() if ".lora_" not in name}
    for name, layer in encoder.named_modules():
        if isinstance(layer, LoraLayer):
            weight = state[f"{name}.base_layer.weight"]
            adapted: Any = layer
            change = sum(adapted.get_delta_weight(name) for name in adapted.active_adapters)
            state[f"{name}.base_layer.weight"] = (weight.float() + change).to(weight.dtype)
    return {name.replace(".base_layer.", "."): t.cpu() for name, t in state.items()}


def _check(backbone: Backbone, device: str) -> None:
    if backbone.pooling != "last":
        raise InputError(
            "judge.backend=vllm serves causal judges, whose head reads the last token, got pooling "
            f"{backbone.pooling!r}: use judge.backend=transformers."
        )
    if device != "auto":
        raise InputError(
            f"judge.backend=vllm computes on what vLLM was built for, got device {device!r}: leave "
            "judge.device=auto, and choose a GPU with CUDA_VISIBLE_DEVICES."
        )
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "judge.backend=vllm needs vLLM: pip install 'deepprune[vllm]', or use "
            "judge.backend=transformers."
        )
