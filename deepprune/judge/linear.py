"""The cheap trained judge: each prefix is embedded once, a small head compares two of them.

Tensor names: B pairs of a batch, P pairs, M prefixes, T tokens, D width of an embedding, F
features.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.flops import transformer_flops
from deepprune.core.protocols import TEXT_ALONE, BoolArray, FloatArray, IntArray, Need
from deepprune.core.types import Prefix, PrefixRule, TracePair
from deepprune.judge.base import JudgeProvenance, Prices
from deepprune.judge.calibration import Calibration, calibration_from_json
from deepprune.judge.export import frozen_digest, tensors_digest
from deepprune.judge.features import forced_answers as probe
from deepprune.judge.features import overlaps as features
from deepprune.judge.features import peers
from deepprune.judge.features.forced_answers import PROBE_NAMES, probe_features
from deepprune.judge.features.overlaps import COUNTS, KINDS, NAMES, pair_features
from deepprune.judge.features.peers import PEER_NAMES, peer_features
from deepprune.judge.network.backbones import (
    Backbone,
    Head,
    Lora,
    Pooling,
    load_model,
    load_tokenizer,
    model_size,
)
from deepprune.judge.network.cross_encoder import resolve_device
from deepprune.judge.network.inference import token_batches
from deepprune.judge.saved import (
    BI_ENCODER,
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
from deepprune.judge.trained import TrainedJudge

_WEIGHTS = "weights.safetensors"
_CACHED_TEXTS = 65_536
_TOKENS_PER_BATCH = 8192
_N_RATIOS = 2 * len(KINDS)


class Interaction(StrEnum):
    """What the head reads of two unit embeddings u and v; all are the same for v and u."""

    COSINE = "cosine"  # u v, one number
    DIFFERENCE = "difference"  # |u - v|
    PRODUCT = "product"  # u * v
    SUM = "sum"  # u + v


@dataclass(frozen=True)
class BiEncoderSettings:
    """What a bi-encoder is.

    Attributes:
        backbone: What embeds, its mean over tokens; frozen, fine-tuned or with adapters. It is not
            read where there are no interactions.
        max_length: Tokens at the end of a prefix that are embedded, special tokens included.
        interactions: What the head reads of two embeddings; none: no embeddings.
        peers: Whether it reads a pair among the other prefixes of the question, see ``peers``.
        probes: Whether it reads forced answers, see ``probe``.
        hidden: Units of the head's hidden layer; 0: a linear head.

    Raises:
        ValueError: If a value is out of range.
    """

    backbone: Backbone = field(default_factory=lambda: Backbone(pooling=Pooling.MEAN, freeze=True))
    max_length: int = 256
    interactions: Sequence[Interaction] = (Interaction.COSINE,)
    peers: bool = False
    probes: bool = False
    hidden: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "interactions", tuple(map(Interaction, self.interactions)))
        if self.backbone.pooling is not Pooling.MEAN or self.backbone.head is Head.GENERATIVE:
            raise ValueError(
                "a bi-encoder embeds a prefix by the mean over its tokens: set backbone.pooling to "
                f"mean and backbone.head to classification, got {self.backbone.pooling} and "
                f"{self.backbone.head}."
            )
        if self.max_length < 3:
            raise ValueError(f"max_length must be >= 3 tokens, got {self.max_length}.")
        if self.hidden < 0:
            raise ValueError(f"hidden must be >= 0 units, got {self.hidden}.")

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads of the traces."""
        return TEXT_ALONE | ({Need.FORCED_ANSWERS} if self.probes else set())

    @property
    def embeds(self) -> bool:
        """Whether there is a backbone at all."""
        return bool(self.interactions)

    @property
    def is_frozen(self) -> bool:
        """Whether embeddings can be computed before the training."""
        return self.backbone.freeze

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of ``features``: counts are logarithms, without their difference."""
        return (
            *NAMES[: _N_RATIOS + 2 * len(COUNTS)],
            *(PEER_NAMES if self.peers else ()),
            *(PROBE_NAMES if self.probes else ()),
        )

    def features(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Overlaps, and what peers and probes tell; finite, shape ``(P, F)``; symmetric."""
        overlaps = pair_features(pairs)[:, : _N_RATIOS + 2 * len(COUNTS)]
        overlaps[:, _N_RATIOS:] = np.log1p(overlaps[:, _N_RATIOS:])
        columns = [overlaps]
        if self.peers:
            columns.append(peer_features(pairs))
        if self.probes:
            columns.append(probe_features(pairs))
        return np.concatenate(columns, axis=1)


class BiEncoder(nn.Module):
    """A backbone, and a head over features and interactions: pairs to logits ``(B,)``.

    Args:
        settings: What it is made of.
        encoder: Embeds; ``None`` where nothing is embedded.
    """

    def __init__(self, settings: BiEncoderSettings, encoder: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self._interactions = tuple(settings.interactions)
        n_features = len(settings.feature_names)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        size = 0 if encoder is None else int(encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
        width = n_features + sum(
            1 if kind is Interaction.COSINE else size for kind in settings.interactions
        )
        if settings.hidden:
            self.head: nn.Module = nn.Sequential(
                nn.Linear(width, settings.hidden), nn.GELU(), nn.Linear(settings.hidden, 1)
            )
        else:
            self.head = nn.Linear(width, 1)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def standardise(self, features: FloatArray) -> None:
        """Let the head read features less their mean, in units of their deviation, of these."""
        scale = features.std(0)
        scale[scale < 1e-6] = 1.0
        self.mean.copy_(torch.from_numpy(features.mean(0)))
        self.scale.copy_(torch.from_numpy(scale))

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit embeddings of prefixes, ``(M, T)`` -> ``(M, D)``, float32."""
        assert self.encoder is not None
        hidden_MTD = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0].float()
        weights = attention_mask.unsqueeze(-1).float()
        return nn.functional.normalize((hidden_MTD * weights).sum(1) / weights.sum(1))

    def forward(
        self,
        features: Tensor,
        vectors: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of "same answer", float32, shape ``(B,)``.

        Args:
            features: Of the pairs, shape ``(B, F)``.
            vectors: Embeddings of first and second prefixes, shape ``(B, 2, D)``.
            input_ids: In their place the prefixes, first ones and then second ones, ``(2 B, T)``.
            attention_mask: Of ``input_ids``.
        """
        parts = [(features - self.mean) / self.scale]
        if self._interactions:
            if vectors is None:
                assert input_ids is not None
                assert attention_mask is not None
                vectors = torch.stack(self.embed(input_ids, attention_mask).chunk(2), dim=1)
            u, v = vectors.unbind(1)
            parts += [_interact(kind, u, v) for kind in self._interactions]
        with torch.autocast(features.device.type, enabled=False):  # small numbers, few of them
            logits: Tensor = self.head(torch.cat(parts, dim=1))
        return logits[:, 0]


class PrefixEncoder:
    """Prefixes as model inputs: the last tokens of each, between special tokens.

    Args:
        settings: How long, and which features.
        model: Embeds prefixes once and for all, where the backbone is frozen.
        tokenizer: The backbone's, where it has been read.
    """

    def __init__(
        self, settings: BiEncoderSettings, model: BiEncoder | None = None, tokenizer: Any = None
    ) -> None:
        self.settings = settings
        self._model = model
        self.tokenizer: Any = None
        if settings.embeds:
            self.tokenizer = tokenizer or load_tokenizer(settings.backbone)
            ids = (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id)
            self._start, self._end = ([] if i is None else [i] for i in ids)
            self._room = settings.max_length - len(self._start) - len(self._end)

    def encode(self, pairs: Sequence[TracePair]) -> PrefixInputs:
        """The inputs of pairs; each prefix is tokenised, and embedded where frozen, once."""
        return PrefixInputs(pairs, self, self._model)

    def tokenise(self, texts: Sequence[str]) -> tuple[list[list[int]], BoolArray]:
        """Token ids of the ends of texts, and whether their beginnings had to be left out."""
        if not texts or not self.settings.embeds:
            return [[] for _ in texts], np.zeros(len(texts), dtype=np.bool_)
        tokenizer = self.tokenizer
        whole = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        is_cut = np.array([len(ids) > self._room for ids in whole], dtype=np.bool_)
        ends = [ids[-self._room :] or [tokenizer.pad_token_id] for ids in whole]
        return [[*self._start, *ids, *self._end] for ids in ends], is_cut

    def collate(self, prefixes: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 of shape ``(M, T)``."""
        longest = max(map(len, prefixes))
        ids = torch.full((len(prefixes), longest), self.tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prefixes):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    @torch.inference_mode()
    def embed(self, model: BiEncoder, prefixes: Sequence[Sequence[int]]) -> Tensor:
        """Embeddings of prefixes, in batches of like length, on the CPU, shape ``(M, D)``."""
        device = model.mean.device
        vectors: list[tuple[int, Tensor]] = []
        with tqdm(
            total=len(prefixes), desc="embeddings", unit="prefix", delay=2, leave=False
        ) as progress:
            for rows in token_batches([len(ids) for ids in prefixes], _TOKENS_PER_BATCH):
                inputs = self.collate([prefixes[row] for row in rows])
                found = model.embed(**{name: t.to(device) for name, t in inputs.items()}).cpu()
                vectors += zip(rows, found, strict=True)
                progress.update(len(rows))
        return torch.stack([vector for _, vector in sorted(vectors, key=lambda item: item[0])])


class PrefixInputs:
    """What a bi-encoder reads of some pairs, see ``data.loader.PairInputs``.

    Args:
        pairs: The pairs.
        encoder: Tokenises.
        model: Embeds now; ``None``: the training does, again and again.
    """

    def __init__(
        self, pairs: Sequence[TracePair], encoder: PrefixEncoder, model: BiEncoder | None
    ) -> None:
        self._encoder = encoder
        self.features: FloatArray = encoder.settings.features(pairs)
        known: dict[str, int] = {}
        ends = [
            [known.setdefault(prefix.text, len(known)) for prefix in (pair.first, pair.second)]
            for pair in pairs
        ]
        self._ends: IntArray = np.array(ends, dtype=np.int64).reshape(-1, 2)
        self._tokens, is_cut = encoder.tokenise(list(known))
        sizes = np.array([len(ids) for ids in self._tokens], dtype=np.int64)
        self.lengths: IntArray = sizes[self._ends].sum(1)
        self.is_truncated: BoolArray = np.asarray(is_cut[self._ends].any(1))
        self._vectors: Tensor | None = None
        if model is not None and pairs:
            # A clone: what inference mode made cannot take part in a training.
            self._vectors = encoder.embed(model, self._tokens).clone()

    def batch(self, rows: IntArray) -> dict[str, Tensor]:
        """The arguments of ``BiEncoder.forward``."""
        inputs = {"features": torch.from_numpy(self.features[rows].astype(np.float32))}
        ends = self._ends[rows]
        if self._vectors is not None:
            return {**inputs, "vectors": self._vectors[torch.from_numpy(ends)]}
        if self._encoder.settings.embeds:
            inputs |= self._encoder.collate([self._tokens[row] for row in ends.T.ravel().tolist()])
        return inputs


class BiEncoderArchitecture:
    """How a bi-encoder is built, see ``architecture.Architecture``.

    Args:
        settings: What it is.
    """

    def __init__(self, settings: BiEncoderSettings) -> None:
        self.settings = settings
        self.name = "bi-encoder"

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads of the traces."""
        return self.settings.needs

    @functools.cached_property
    def encoding(self) -> PrefixEncoder:
        """Reads the tokenizer; and the backbone, where it is frozen."""
        if not (self.settings.embeds and self.settings.is_frozen):
            return PrefixEncoder(self.settings)
        model = load_bi_encoder(self.settings).to(resolve_device("auto"))
        return PrefixEncoder(self.settings, model)

    def build(self, inputs: Any = None) -> BiEncoder:
        """The model, a new head on the backbone's weights; it standardises by ``inputs``."""
        model = load_bi_encoder(self.settings)
        if inputs is not None:
            model.standardise(inputs.features)
        return model

    def judge(self, model: nn.Module, seen_questions: frozenset[str]) -> BiEncoderJudge:
        """The judge of a trained model."""
        assert isinstance(model, BiEncoder)
        return BiEncoderJudge(
            model, PrefixEncoder(self.settings), name=self.name, seen_questions=seen_questions
        )


def load_bi_encoder(settings: BiEncoderSettings) -> BiEncoder:
    """A bi-encoder with its backbone's published weights and a new head.

    Raises:
        InputError: If the weights are not there, or have fewer positions than ``max_length``.
    """
    if not settings.embeds:
        return BiEncoder(settings, None)
    encoder = load_model(settings.backbone).encoder
    config: Any = encoder.config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and settings.max_length > positions:
        raise InputError(
            f"model.max_length must be at most the backbone's {positions} positions, got "
            f"{settings.max_length}."
        )
    return BiEncoder(settings, encoder)


class BiEncoderJudge(TrainedJudge):
    """Compares prefixes that were each embedded once: N forward passes a question, not one a pair.

    Args:
        model: The trained model; put into evaluation mode and moved to the device.
        encoder: How prefixes become inputs.
        calibration: Logits to scores.
        name: Short name for tables.
        seen_questions: Hashes of the questions used for fitting it.
        device: ``auto`` (CUDA where there is one, else the CPU) or a torch device.

    Raises:
        InputError: If the device is not there.
    """

    is_symmetric = True

    def __init__(
        self,
        model: BiEncoder,
        encoder: PrefixEncoder,
        *,
        calibration: Calibration | None = None,
        name: str = "bi-encoder",
        seen_questions: frozenset[str] = frozenset(),
        device: str = "auto",
    ) -> None:
        super().__init__(calibration, name=name, seen_questions=seen_questions)
        self.model = model.to(resolve_device(device)).eval()
        self.encoder, self.settings = encoder, encoder.settings
        self.needs = self.settings.needs
        self.reads_peers = self.settings.peers
        self.is_model = self.settings.embeds
        self._vectors: dict[str, Tensor] = {}
        self._fingerprint: str | None = None

    @property
    def provenance(self) -> JudgeProvenance:
        """Its fingerprint follows from weights, features, settings and calibration."""
        if self._fingerprint is None:
            settings = json.dumps(_settings_to_json(self.settings), sort_keys=True)
            if self.settings.embeds:
                vocabulary = self.encoder.tokenizer.backend_tokenizer.to_str()
                settings += frozen_digest(self.model) + vocabulary
            self._fingerprint = tensors_digest(_own_tensors(self.model), settings)
        calibrated = json.dumps(self.calibration.to_json(), sort_keys=True)
        fingerprint = hashlib.blake2b(
            f"{self._fingerprint}{calibrated}".encode(), digest_size=16
        ).hexdigest()
        return JudgeProvenance(self._name, fingerprint, self._seen, self._path)

    @torch.inference_mode()
    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Uncalibrated logits, shape ``(len(pairs),)``."""
        if not pairs:
            return np.zeros(0)
        device = self.model.mean.device
        inputs = {"features": torch.from_numpy(self.settings.features(pairs).astype(np.float32))}
        if self.settings.embeds:
            texts = [p.text for pair in pairs for p in (pair.first, pair.second)]
            self._embed(texts)
            vectors = torch.stack([self._vectors[text] for text in texts])
            inputs["vectors"] = vectors.reshape(len(pairs), 2, -1)
        found = self.model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        return np.asarray(found.cpu().numpy(), dtype=np.float64)

    def pair_prices(self, pairs: Sequence[TracePair]) -> Prices:
        """The head's FLOPs; features are counted as none."""
        n_params = sum(p.numel() for p in self.model.head.parameters())
        return Prices(np.zeros(len(pairs)), np.full(len(pairs), 2.0 * n_params))

    def prefix_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        """A forward pass over each, where prefixes are embedded."""
        if not self.settings.embeds:
            return Prices.none(len(prefixes))
        tokens, _ = self.encoder.tokenise([prefix.text for prefix in prefixes])
        lengths = np.array([len(ids) for ids in tokens], dtype=np.float64)
        assert self.model.encoder is not None
        return Prices(
            lengths, transformer_flops(*model_size(self.model.encoder), lengths, causal=False)
        )

    def export(
        self,
        folder: Path | str,
        *,
        prefix_rule: PrefixRule | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the folder that ``load`` reads, atomically: ``judge.json`` and what was trained.

        The tokenizer stands beside them; the backbone is read from its source again.

        Args:
            folder: Where to; it must not exist.
            prefix_rule: The prefixes it was trained on, for whoever loads it.
            training: JSON values to keep with it.

        Raises:
            InputError: If the folder exists.
        """

        def fill(temporary: Path) -> None:
            save_file(_own_tensors(self.model), temporary / _WEIGHTS)
            if self.settings.embeds:
                self.encoder.tokenizer.save_pretrained(temporary)
            write_json(
                temporary / RECORD,
                {
                    "format": FORMAT,
                    "kind": BI_ENCODER,
                    "name": self._name,
                    "needs": sorted(self.needs),
                    **_settings_to_json(self.settings),
                    "calibration": self.calibration.to_json(),
                    "prefix_rule": rule_to_json(prefix_rule),
                    "seen_questions": sorted(self._seen),
                    "training": dict(training or {}),
                    "weights_sha256": sha256_file(temporary / _WEIGHTS),
                    "frozen_digest": frozen_digest(self.model),
                    "fingerprint": self.provenance.fingerprint,
                },
            )

        return write_folder(Path(folder), fill)

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", backbone: str | None = None
    ) -> BiEncoderJudge:
        """Read an export.

        Args:
            path: What ``export`` wrote.
            device: See the class.
            backbone: The source that it must have been trained from; ``None`` for any.

        Raises:
            InputError: If files are missing or changed, features or backbone are others, or the
                device is not there.
        """
        folder = Path(path)
        values = read_record(folder)
        try:
            settings = _settings_from_json(values["settings"])
            features = values["features"]
            expected = _settings_to_json(settings)["features"]
            calibration = calibration_from_json(values["calibration"])
            rule_from_json(values["prefix_rule"])
            seen = frozenset(values["seen_questions"])
            name, sha256, digest = (
                values[key] for key in ("name", "weights_sha256", "frozen_digest")
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(folder, error) from error
        if features != expected:
            raise InputError(
                f"the judge in {folder} was trained on other features than this version has: "
                "train it again."
            )
        check_backbone(folder, settings.backbone.source, backbone)
        file = checked_file(folder, _WEIGHTS, sha256)
        model = load_bi_encoder(settings)
        if frozen_digest(model) != digest:
            raise InputError(
                f"the judge in {folder} was trained on other weights than "
                f"{settings.backbone.source!r} now has: pin backbone.revision, or restore the "
                "folder it was trained from."
            )
        try:
            tensors = load_file(file)
        except SafetensorError as error:
            raise InputError(
                f"{file} must be a safetensors file ({error}): export again."
            ) from error
        own = _own_tensors(model)
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
            raise InputError(f"{file} must fit the model that {RECORD} describes: export again.")
        model.load_state_dict(tensors, strict=False)
        judge = cls(
            model,
            PrefixEncoder(
                settings,
                tokenizer=AutoTokenizer.from_pretrained(folder) if settings.embeds else None,
            ),
            calibration=calibration,
            name=name,
            seen_questions=seen,
            device=device,
        )
        judge._path = folder
        return judge

    def _embed(self, texts: Sequence[str]) -> None:
        """Make sure that the embeddings of all texts are in ``self._vectors``."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._vectors))
        if len(self._vectors) + len(missing) > _CACHED_TEXTS:
            self._vectors.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            tokens, _ = self.encoder.tokenise(missing)
            self._vectors.update(zip(missing, self.encoder.embed(self.model, tokens), strict=True))


def _interact(kind: Interaction, u: Tensor, v: Tensor) -> Tensor:
    """``(B, D)`` twice -> ``(B, D)``, or ``(B, 1)``; a number is about 1 whatever D is."""
    width = float(u.shape[1])
    values: dict[Interaction, Tensor] = {
        Interaction.COSINE: (u * v).sum(1, keepdim=True),
        Interaction.DIFFERENCE: (u - v).abs() * width**0.5,
        Interaction.PRODUCT: u * v * width,
        Interaction.SUM: (u + v) * width**0.5,
    }
    return values[kind]


def _own_tensors(model: BiEncoder) -> dict[str, Tensor]:
    """Whatever is not frozen: head, standardisation, and what was trained of the backbone."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
        if name not in frozen
    }


def _settings_to_json(settings: BiEncoderSettings) -> dict[str, Any]:
    return {
        "settings": {**asdict(settings), "interactions": [str(i) for i in settings.interactions]},
        "features": {
            "version": [features.VERSION, peers.VERSION, probe.VERSION],
            "names": list(settings.feature_names),
        },
    }


def _settings_from_json(values: Mapping[str, Any]) -> BiEncoderSettings:
    backbone = dict(values["backbone"])
    if backbone["lora"] is not None:
        backbone["lora"] = Lora(**backbone["lora"])
    # Code from the hub runs only where the user says so, never because an export does.
    source = replace(Backbone(**backbone), trust_remote_code=False)
    return BiEncoderSettings(**{**values, "backbone": source})
