"""Types of every option. The values, with units and ranges, are in `conf/`.

A misspelt key or a wrong type stops at composition. Fields without a value (`MISSING`) get theirs
from the YAML file, which is the one place where a default lives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class DataConf:
    fractions: list[float] = MISSING
    models: list[str] | None = None
    datasets: list[str] | None = None
    holdout_models: list[str] = MISSING
    pairs_per_question: int | None = MISSING
    eval_pairs_per_question: int | None = MISSING
    only_unfinished: bool = MISSING
    answer_style: dict[str, str] = MISSING
    batch_size: int = MISSING


@dataclass
class SweepConf:
    thresholds: list[float] = MISSING
    prefix_lens: list[float] = MISSING
    ks: list[int] = MISSING
    questions: int | None = None
    traces: int | None = None
    resamples: int = MISSING
    skip_short: bool = MISSING


@dataclass
class FirstTokensConf:
    _target_: str = "deepprune.data.prefixes.FirstTokens"
    k: int = MISSING


@dataclass
class ReasoningWordsConf:
    _target_: str = "deepprune.data.prefixes.ReasoningWords"
    k: int = MISSING
    words: list[str] = MISSING
    _convert_: str = "all"


@dataclass
class FractionConf:
    _target_: str = "deepprune.data.prefixes.Fraction"
    k: float = MISSING


@dataclass
class LoraConf:
    _target_: str = "deepprune.judge.backbones.Lora"
    _convert_: str = "all"
    r: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    target_modules: list[str] = MISSING


@dataclass
class BackboneConf:
    _target_: str = "deepprune.judge.backbones.Backbone"
    source: str = MISSING
    revision: str | None = None
    pooling: str = MISSING
    lora: LoraConf | None = None
    freeze: bool = MISSING
    dropout: float = MISSING
    dtype: str = MISSING
    attention: str = MISSING
    gradient_checkpointing: bool = MISSING
    trust_remote_code: bool = MISSING


@dataclass
class EncoderConf:
    max_length: int = MISSING
    with_question: bool = MISSING
    padding_side: str = MISSING


@dataclass
class ModelConf:
    backbone: BackboneConf = field(default_factory=BackboneConf)
    encoder: EncoderConf = field(default_factory=EncoderConf)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] | None = None


@dataclass
class FocalConf:
    _target_: str = "deepprune.judge.losses.FocalLoss"
    gamma: float = MISSING
    alpha: float | None = MISSING


@dataclass
class BCEConf:
    _target_: str = "deepprune.judge.losses.BCELoss"


@dataclass
class WeightedBCEConf:
    _target_: str = "deepprune.judge.losses.WeightedBCELoss"
    positive_weight: float = MISSING


@dataclass
class NaturalConf:
    _target_: str = "deepprune.data.samplers.NaturalSampler"
    _partial_: bool = True
    epoch_length: int | None = MISSING


@dataclass
class OversampleConf:
    _target_: str = "deepprune.data.samplers.OversampleSampler"
    _partial_: bool = True
    ratio: float = MISSING
    epoch_length: int | None = MISSING


@dataclass
class BalancedConf:
    _target_: str = "deepprune.data.samplers.BalancedSampler"
    _partial_: bool = True
    epoch_length: int | None = MISSING


@dataclass
class DeepPruneConf:
    _target_: str = "deepprune.pruning.policies.deepprune.DeepPrune"
    prefix: Any = "${prefix}"
    max_clusters: int = MISSING
    max_members: int = MISSING
    finish: str = MISSING
    max_finishers: int = 20
    singleton_finishers: int = 20
    vote: str = "plain"


@dataclass
class ReplayConf:
    _target_: str = "deepprune.engines.replay.ReplayEngine"
    _partial_: bool = True
    seconds_per_token: float = MISSING


@dataclass
class GeneratorConf:
    _target_: str = "deepprune.evaluation.ledger.GeneratorSize"
    params: float = MISSING
    layers: int = MISSING
    hidden: int = MISSING


@dataclass
class LexicalConf:
    _target_: str = "deepprune.judge.baselines.LexicalJudge"


@dataclass
class SentenceEmbeddingConf:
    _target_: str = "deepprune.judge.embedding.SentenceEmbeddingJudge"
    max_length: int = MISSING


@dataclass
class OracleConf:
    _target_: str = "deepprune.judge.baselines.OracleJudge"


@dataclass
class CoinConf:
    _target_: str = "deepprune.judge.baselines.CoinJudge"
    seed: int = MISSING


@dataclass
class TrainedConf:
    _target_: str = "deepprune.judge.base.Judge.load"
    path: str = MISSING
    device: str = MISSING
    backbone: str | None = None


@dataclass
class WandbConf:
    project: str | None = MISSING
    entity: str | None = None
    mode: str = MISSING


@dataclass
class SweepingConf:
    """What both commands have."""

    traces: str = MISSING
    seed: int = MISSING
    data: DataConf = field(default_factory=DataConf)
    prefix: Any = MISSING
    pruning: dict[str, Any] = field(default_factory=dict)
    sweep: SweepConf = field(default_factory=SweepConf)
    engine: Any = MISSING
    generators: dict[str, GeneratorConf] = field(default_factory=dict)
    generator: Any = None
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: Any = None


@dataclass
class EvaluateConf(SweepingConf):
    """`deepprune evaluate`."""

    judge: Any = MISSING


@dataclass
class TrainConf(SweepingConf):
    """`train.py`."""

    model: ModelConf = field(default_factory=ModelConf)
    loss: Any = MISSING
    sampler: Any = MISSING
    trainer: Any = MISSING


GROUPS: dict[str, dict[str, Any]] = {
    "data": {"data": DataConf},
    "prefix": {
        "first_tokens": FirstTokensConf,
        "reasoning_words": ReasoningWordsConf,
        "fraction": FractionConf,
    },
    "model": {"model": ModelConf},
    "loss": {"focal": FocalConf, "bce": BCEConf, "weighted_bce": WeightedBCEConf},
    "sampler": {
        "natural": NaturalConf,
        "oversample": OversampleConf,
        "balanced": BalancedConf,
    },
    "engine": {"replay": ReplayConf},
    "judge": {
        "lexical": LexicalConf,
        "sentence_embedding": SentenceEmbeddingConf,
        "oracle": OracleConf,
        "coin": CoinConf,
        "trained": TrainedConf,
    },
    "logger": {"wandb": WandbConf},
}


def register() -> None:
    """Make the schemas known to Hydra as ``base_NAME``, each in its group."""
    store = ConfigStore.instance()
    store.store(name="base_train", node=TrainConf)
    store.store(name="base_evaluate", node=EvaluateConf)
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            store.store(group=group, name=f"base_{name}", node=schema)
    for name in ("deepprune", "representatives"):
        store.store(
            group="pruning", name=f"base_{name}", node=DeepPruneConf, package=f"pruning.{name}"
        )
