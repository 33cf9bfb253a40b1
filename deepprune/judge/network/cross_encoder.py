"""The cross-encoder judge: a transformer that reads both prefixes of a pair together."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from torch import nn

from deepprune.core.errors import InputError
from deepprune.core.progress import Bar
from deepprune.core.protocols import TEXT_ALONE, FloatArray
from deepprune.core.types import TracePair
from deepprune.data.loader import PairEncoding, PairInputs
from deepprune.judge.base import Prices
from deepprune.judge.network.backbones import (
    Backbone,
    PairClassifier,
    forward_flops,
    load_config,
    load_model,
    load_tokenizer,
)
from deepprune.judge.network.encoding import ANSWER_WORDS, PairEncoder
from deepprune.judge.network.inference import pair_logits
from deepprune.judge.network.packing import PairTokens, why_not_packed
from deepprune.judge.network.weights import (
    backbone_from_json,
    backbone_to_json,
    frozen_digest,
    model_identity,
    read_model,
    write_model,
)
from deepprune.judge.saved import CROSS_ENCODER, SavedJudge, backbone_sha256, link_backbone
from deepprune.judge.trained import TrainedJudge


class CrossEncoderJudge(TrainedJudge):
    """Scores a pair by reading both prefixes together.

    Equal pairs are scored once, each text is tokenised once, pairs are sorted by length and batched
    by tokens; a causal model reads a representative once for its candidates (`packing`). It
    computes in bfloat16 where the device has instructions for it; the precision is part of the
    fingerprint.

    Prices are those of separate passes, an upper bound where representatives are read once: they
    must not depend on which pairs are scored together.

    Args:
        model: The classifier; put into evaluation mode and moved to the device.
        encoder: Turns pairs into sequences.
        backbone: Settings from which the model was built.
        name: Name in tables.
        seen_questions: Hashes of the questions used for fitting it.
        device: ``auto`` (CUDA where there is one, else the CPU) or a torch device.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        symmetric: Average the logits of both orders: twice the cost, and swapping changes nothing.
        tokens_per_batch: Tokens of a batch, see `pair_logits`; ``None`` for 2,048 on a CPU, where a
            small batch stays in its cache (4,096 where batches share representatives), else 16,384.

    Raises:
        InputError: If the device is missing.
    """

    kind = CROSS_ENCODER
    is_model = True

    def __init__(
        self,
        model: PairClassifier,
        encoder: PairEncoder,
        backbone: Backbone,
        *,
        name: str = "cross-encoder",
        seen_questions: frozenset[str] = frozenset(),
        device: str = "auto",
        precision: str = "auto",
        symmetric: bool = False,
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__(name=name, seen_questions=seen_questions)
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.model = model.to(self.device).eval()
        self.encoder, self.backbone = encoder, backbone
        self.is_symmetric = symmetric
        if tokens_per_batch is None:
            on_cpu = 4_096 if model.pooling == "last" else 2_048
            tokens_per_batch = on_cpu if self.device.type == "cpu" else 16_384
        self._tokens_per_batch = tokens_per_batch
        self._known_identity: str | None = None

    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        inputs = self.encoder.encode(pairs)
        rows = [tuple(row) for row in inputs.texts.tolist()]
        if self.is_symmetric:
            rows += [(question, second, first) for question, first, second in rows]
        todo = list(dict.fromkeys(rows))
        found = self._sequence_logits([inputs.sequence(row) for row in todo])
        known = dict(zip(todo, found.tolist(), strict=True))
        values = np.array([known[row] for row in rows], dtype=np.float64)
        return np.asarray(values.reshape(1 + self.is_symmetric, len(pairs)).mean(axis=0))

    def pair_prices(self, pairs: Sequence[TracePair]) -> Prices:
        """Charge a forward pass over each pair, two where both orders are read."""
        tokens = self.encoder.encode(pairs).lengths.astype(np.float64)
        flops = forward_flops(self.model, tokens, causal=self.encoder.layout == "causal")
        n_passes = 1 + self.is_symmetric
        return Prices(n_passes * tokens, n_passes * flops)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "backbone": backbone_to_json(self.backbone),
            "encoder": self.encoder.settings,
            "symmetric": self.is_symmetric,
            "frozen_digest": frozen_digest(self.model) if self.backbone.lora else None,
            "backbone_sha256": self._backbone_sha256,
        }

    @property
    def _backbone_sha256(self) -> str | None:
        """Hash of a local backbone that an export lacks."""
        return backbone_sha256(self.backbone.source) if self.backbone.lora else None

    def _identity(self) -> str:
        if self._known_identity is None:  # hashing all weights takes seconds
            state = [self.encoder.settings, self.is_symmetric, self.precision]
            self._known_identity = (
                f"{model_identity(self.model, self.backbone)}{json.dumps(state, sort_keys=True)}"
            )
        return self._known_identity

    def _write_files(self, folder: Path) -> None:
        write_model(folder, self.model, self.backbone, self.encoder.tokenizer)

    def export(self, folder: Path | str, **about: Any) -> Path:
        if self._backbone_sha256 and not Path(folder).exists():
            link_backbone(Path(folder), self.backbone.source)
        return super().export(folder, **about)

    @classmethod
    def _from_record(cls, folder: Path, record: SavedJudge, device: str, **settings: Any) -> Self:
        values = record.settings
        backbone = backbone_from_json(values["backbone"])
        encoding = {**values["encoder"]}
        encoding["texts"] = encoding.pop("template", None) or encoding.get("texts", ())  # renamed
        words = encoding.get("answer_words", ANSWER_WORDS)
        model, tokenizer = read_model(folder, backbone, values["frozen_digest"], words)
        return cls(
            model,
            PairEncoder(tokenizer, **encoding),
            backbone,
            device=device,
            symmetric=values["symmetric"],
            **settings,
        )

    def _sequence_logits(self, sequences: Sequence[PairTokens]) -> FloatArray:
        """Return the logits of encoded pairs, shape ``(len(sequences),)``."""
        bar = Bar(total=len(sequences), desc=f"{self._name}, pairs: ")
        is_bfloat16 = self.precision == "bfloat16"
        with bar, torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16):
            return pair_logits(
                self.model,
                self.encoder,
                sequences,
                tokens_per_batch=self._tokens_per_batch,
                on_batch=bar.update,
            )


class CrossEncoderArchitecture:
    """Architecture of cross-encoders, see ``architecture.Architecture``.

    Args:
        backbone: What the model is built from.
        encoder: Settings of the ``PairEncoder``.
        symmetric: Whether the judge averages the logits of both orders of a pair, at twice the
            cost.
    """

    needs = TEXT_ALONE

    def __init__(
        self,
        backbone: Backbone,
        encoder: Annotated[Mapping[str, Any], "model/encoder"],
        symmetric: bool = False,
    ) -> None:
        if backbone.dtype == "bfloat16" and not (backbone.lora or backbone.freeze):
            raise ValueError(
                "model.backbone.dtype must be float32 for weights that are trained, got bfloat16: "
                "it rounds most optimiser steps away. Or train adapters (lora) or the head alone "
                "(freeze=true)."
            )
        self._backbone, self._symmetric, self._encoder = backbone, symmetric, encoder
        self.name = Path(backbone.source).name

    @property
    def shares_heads(self) -> bool:
        """Whether the model reads packed batches at once, by its configuration."""
        backbone = self._backbone
        if backbone.layout != "causal":
            return False
        return not why_not_packed(load_config(backbone), backbone.attention)

    @property
    def encoding(self) -> PairEncoding:
        """Turn pairs into sequences; reads the tokenizer, no weights."""
        return self.pair_encoder.encode

    @functools.cached_property
    def pair_encoder(self) -> PairEncoder:
        """Encoder of model and judge."""
        backbone = self._backbone
        return PairEncoder(
            load_tokenizer(backbone),
            layout=backbone.layout,
            generative=backbone.is_generative,
            **self._encoder,
        )

    def build(self, inputs: PairInputs | None = None) -> PairClassifier:
        """Read the backbone's weights and add a head; the inputs do not matter."""
        return load_model(self._backbone, self._encoder.get("answer_words", ANSWER_WORDS))

    def judge(self, model: nn.Module, seen_questions: frozenset[str]) -> CrossEncoderJudge:
        assert isinstance(model, PairClassifier)
        return CrossEncoderJudge(
            model,
            self.pair_encoder,
            self._backbone,
            name=self.name,
            seen_questions=seen_questions,
            symmetric=self._symmetric,
        )


def resolve_device(name: str) -> torch.device:
    """Return a torch device; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: If there is no CUDA device and one is asked for.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {name!r} was asked for and no CUDA device is there; use auto or cpu."
        )
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision; ``auto`` is ``bfloat16`` where the device has instructions for it."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}.")
    if precision != "auto":
        return precision
    return "bfloat16" if has_fast_bfloat16(device.type) else "float32"


def has_fast_bfloat16(device_type: str) -> bool:
    """Return whether the hardware has bfloat16 instructions: emulation is slower than float32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())  # the check torch's own compiler uses
    return False
