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
    split_seed: int = MISSING
    fold: int = MISSING
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
    ns: list[int] = MISSING
    axes: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    judges: list[str] = field(default_factory=list)
    skip_unmet: bool = False
    baseline: str = MISSING
    margin: float = MISSING
    usd_judge: float | None = None
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
    _target_: str = "deepprune.judge.network.backbones.Lora"
    _convert_: str = "all"
    r: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    target_modules: list[str] = MISSING


@dataclass
class BackboneConf:
    _target_: str = "deepprune.judge.network.backbones.Backbone"
    source: str = MISSING
    revision: str | None = None
    pooling: str = MISSING
    head: str = MISSING
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
    chat_template: bool = MISSING


@dataclass
class ModelConf:
    backbone: BackboneConf = field(default_factory=BackboneConf)
    encoder: EncoderConf = field(default_factory=EncoderConf)
    symmetric: bool = MISSING
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: str | None = None
    warmup: float = MISSING


@dataclass
class LinearConf:
    groups: list[str] = MISSING
    hidden: int = MISSING
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: str | None = None
    warmup: float = MISSING


@dataclass
class FocalConf:
    _target_: str = "deepprune.judge.network.losses.FocalLoss"
    gamma: float = MISSING
    alpha: float | None = MISSING


@dataclass
class BCEConf:
    _target_: str = "deepprune.judge.network.losses.BCELoss"


@dataclass
class WeightedBCEConf:
    _target_: str = "deepprune.judge.network.losses.WeightedBCELoss"
    positive_weight: float = MISSING


@dataclass
class RankingConf:
    _target_: str = "deepprune.judge.network.losses.RankingLoss"
    bce_weight: float = MISSING


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
class QuestionBalancedConf:
    _target_: str = "deepprune.data.samplers.QuestionBalancedSampler"
    _partial_: bool = True
    block: int = MISSING
    epoch_length: int | None = MISSING


@dataclass
class DeepPruneConf:
    _target_: str = "deepprune.pruning.policies.deepprune.DeepPrune"
    prefix: Any = "${prefix}"
    threshold: float = 0.5
    clustering: str = "greedy"
    max_clusters: int = 32
    max_members: int = 10
    finish: str = MISSING
    max_finishers: int = 20
    singleton_finishers: int = 20
    vote: str = "plain"
    wave: int | None = None
    stop_confidence: float | None = None
    check_every: int = 500
    name: str = "deepprune"


@dataclass
class RepresentativesConf(DeepPruneConf):
    name: str = "representatives"


@dataclass
class DeepConfConf:
    _target_: str = "deepprune.pruning.policies.deepconf.DeepConf"
    keep: float = MISSING
    warmup: int = MISSING
    window: int = MISSING
    consensus: float | None = MISSING
    check_every: int = MISSING
    parallel: int = MISSING


@dataclass
class DeepConfOfflineConf:
    _target_: str = "deepprune.pruning.policies.deepconf_offline.DeepConfOffline"
    k: int | None = MISSING
    measure: str = MISSING
    keep: float = MISSING
    window: int = MISSING


@dataclass
class SlimSCConf:
    _target_: str = "deepprune.pruning.policies.slim_sc.SlimSC"
    similarity: float = MISSING
    variant: str = MISSING
    warmup: int = MISSING
    check_every: int = MISSING


@dataclass
class AdaptiveConsistencyConf:
    _target_: str = "deepprune.pruning.policies.adaptive_consistency.AdaptiveConsistency"
    stop_confidence: float = MISSING
    cap: int | None = MISSING
    wave: int = MISSING
    rule: str = MISSING
    budget: int | None = MISSING
    name: str = "adaptive_consistency"


@dataclass
class ESCConf:
    _target_: str = "deepprune.pruning.policies.esc.ESC"
    window: int = MISSING
    cap: int | None = MISSING


@dataclass
class EarlyExitConf:
    _target_: str = "deepprune.pruning.policies.early_exit.EarlyExit"
    force_every: int = MISSING
    agreeing: int = MISSING
    k: int | None = MISSING


@dataclass
class ParallelProbeConf:
    _target_: str = "deepprune.pruning.policies.parallel_probe.ParallelProbe"
    force_every: int = MISSING
    stable: int = MISSING
    warmup: int = MISSING
    prune_share: float = MISSING
    prune_after: int = MISSING
    min_active: int = MISSING
    k: int | None = MISSING


@dataclass
class MARSConf:
    _target_: str = "deepprune.pruning.policies.mars.MARS"
    force_every: int = MISSING
    warmup: int = MISSING
    gamma: float = MISSING


@dataclass
class ReplayConf:
    _target_: str = "deepprune.pruning.replay.ReplayEngine"
    _partial_: bool = True
    seconds_per_token: float = MISSING
    tokens_per_forced_answer: int = MISSING
    shuffle: bool = MISSING


@dataclass
class VllmConf:
    _target_: str = "deepprune.generation.vllm.VllmBackend"
    model: str = MISSING
    name: str | None = MISSING
    revision: str | None = MISSING
    tokenizer: str | None = MISSING
    dtype: str = MISSING
    max_model_len: int | None = MISSING
    gpu_memory_utilization: float = MISSING
    tensor_parallel_size: int = MISSING
    max_num_seqs: int | None = MISSING
    enforce_eager: bool = MISSING
    trust_remote_code: bool = MISSING
    extra: dict[str, Any] = MISSING
    _convert_: str = "all"


@dataclass
class ScriptedConf:
    _target_: str = "deepprune.config.build_live.scripted"
    traces: str = MISSING
    model: str | None = MISSING
    seconds_per_token: float = MISSING


@dataclass
class OpenAIConf:
    _target_: str = "deepprune.generation.openai.client.OpenAIBackend"
    _convert_: str = "all"
    base_url: str = MISSING
    model: str | None = None
    name: str | None = None
    api: str = MISSING
    tokenizer: str | None = None
    api_key_env: str = MISSING
    timeout_s: float = MISSING
    max_retries: int = MISSING
    max_concurrent: int = MISSING
    extra_body: dict[str, Any] = field(default_factory=dict)


@dataclass
class PromptConf:
    _target_: str = "deepprune.generation.backend.PromptFormat"
    _convert_: str = "all"
    template: str = MISSING
    system: str | None = None
    chat: bool = MISSING
    chat_arguments: dict[str, Any] = field(default_factory=dict)
    think_end: str = MISSING
    force: str = MISSING
    answer_style: str = MISSING


@dataclass
class SamplingConf:
    _target_: str = "deepprune.generation.backend.Sampling"
    _convert_: str = "all"
    max_tokens: int = MISSING
    temperature: float = MISSING
    top_p: float = MISSING
    top_k: int = MISSING
    stop: list[str] = MISSING
    logprobs: int = MISSING


@dataclass
class ColumnsConf:
    _target_: str = "deepprune.generation.questions.Columns"
    _convert_: str = "all"
    question: str = MISSING
    gold: str | None = MISSING
    question_id: str | None = MISSING
    wrong: list[str] = MISSING


@dataclass
class QuestionsConf:
    """What all sources of questions have."""

    _target_: str = MISSING
    _convert_: str = "all"
    ids: list[str] | None = None
    limit: int | None = None


@dataclass
class TableConf(QuestionsConf):
    path: str = MISSING
    dataset: str | None = None
    columns: ColumnsConf = field(default_factory=ColumnsConf)
    where: dict[str, str] = field(default_factory=dict)
    seed: int = MISSING


@dataclass
class QuestionFileConf(TableConf):
    _target_: str = "deepprune.generation.questions.QuestionFile"


@dataclass
class HubQuestionsConf(TableConf):
    _target_: str = "deepprune.generation.questions.HubQuestions"
    name: str | None = None
    split: str = MISSING
    revision: str | None = None


@dataclass
class GeneratedQuestionsConf(QuestionsConf):
    _target_: str = "deepprune.generation.questions.GeneratedQuestions"
    tasks: list[str] = MISSING
    size: int = MISSING
    seed: int = MISSING


@dataclass
class RecordedQuestionsConf(QuestionsConf):
    _target_: str = "deepprune.generation.questions.RecordedQuestions"
    traces: str = MISSING
    datasets: list[str] | None = None


@dataclass
class LiveConf:
    """How traces are generated, whatever generates them; for `collect` and `prune`."""

    mode: str = "stream"
    force_every: int | None = None
    force_tokens: int = 20
    stall_s: float = 300.0


@dataclass
class GeneratorConf:
    _target_: str = "deepprune.evaluation.ledger.GeneratorSize"
    params: float = MISSING
    layers: int = MISSING
    hidden: int = MISSING
    usd_prompt: float | None = None
    usd_generated: float | None = None


@dataclass
class ProcessesConf:
    _target_: str = "deepprune.evaluation.distributed.Processes"
    n: int | None = MISSING


@dataclass
class RayConf:
    _target_: str = "deepprune.evaluation.distributed.Ray"
    n: int = MISSING
    address: str | None = MISSING
    cpus: float = MISSING
    gpus: float = MISSING


@dataclass
class LexicalConf:
    _target_: str = "deepprune.judge.baselines.LexicalJudge"


@dataclass
class SentenceEmbeddingConf:
    _target_: str = "deepprune.judge.features.embeddings.SentenceEmbeddingJudge"
    max_length: int = MISSING


@dataclass
class LengthOnlyConf:
    _target_: str = "deepprune.judge.baselines.LengthOnlyJudge"


@dataclass
class OracleConf:
    _target_: str = "deepprune.judge.baselines.OracleJudge"


@dataclass
class CoinConf:
    _target_: str = "deepprune.judge.baselines.CoinJudge"
    seed: int = MISSING


@dataclass
class NoisyOracleConf:
    _target_: str = "deepprune.judge.baselines.NoisyOracleJudge"
    auroc: float = MISSING
    seed: int = MISSING


@dataclass
class TrainedConf:
    _target_: str = "deepprune.judge.loading.load_judge"
    path: str = MISSING
    device: str = MISSING
    backbone: str | None = None
    backend: str = MISSING
    gpu_memory_utilization: float = MISSING


@dataclass
class CascadeConf:
    _target_: str = "deepprune.judge.loading.load_cascade"
    cheap: str = MISSING
    expensive: str = MISSING
    low: float | None = None
    high: float | None = None
    share: float | None = None
    device: str = MISSING


@dataclass
class ZeroShotConf:
    _target_: str = "deepprune.judge.network.zero_shot.zero_shot_judge"
    source: str = MISSING
    revision: str | None = None
    max_length: int = MISSING
    with_question: bool = MISSING
    chat_template: bool = MISSING
    symmetric: bool = MISSING
    dtype: str = MISSING
    attention: str = MISSING
    device: str = MISSING
    trust_remote_code: bool = MISSING


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
    distributed: Any = MISSING
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

    model: Any = MISSING
    loss: Any = MISSING
    sampler: Any = MISSING
    trainer: Any = MISSING
    calibration: str = MISSING


@dataclass
class CollectingConf:
    n: int = MISSING
    concurrency: int = MISSING
    replicas: list[str] | None = None


@dataclass
class CollectConf:
    """`deepprune collect`."""

    questions: Any = MISSING
    engine: Any = MISSING
    prompt: PromptConf = field(default_factory=PromptConf)
    sampling: SamplingConf = field(default_factory=SamplingConf)
    live: LiveConf = field(default_factory=LiveConf)
    collect: CollectingConf = field(default_factory=CollectingConf)
    seed: int = MISSING
    logger: Any = None


@dataclass
class JudgeReportConf:
    """`deepprune judge-report`."""

    traces: list[str] = MISSING
    judges: list[str] = MISSING
    baselines: list[str] = MISSING
    pairs: str = MISSING
    leave_out_seen: bool = MISSING
    device: str = MISSING
    seed: int = MISSING
    data: DataConf = field(default_factory=DataConf)
    prefix: Any = None
    logger: Any = None


@dataclass
class PruneQuestionConf:
    traces: int = MISSING
    judge_timeout_s: float = MISSING


@dataclass
class PruneConf:
    """`deepprune prune`."""

    traces: str = MISSING
    question: str | None = None
    questions: Any = None
    engine: Any = MISSING
    prompt: PromptConf = field(default_factory=PromptConf)
    sampling: SamplingConf = field(default_factory=SamplingConf)
    live: LiveConf = field(default_factory=LiveConf)
    prefix: Any = MISSING
    pruning: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    judge: Any = MISSING
    prune: PruneQuestionConf = field(default_factory=PruneQuestionConf)
    view: str = MISSING
    seed: int = MISSING
    generators: dict[str, GeneratorConf] = field(default_factory=dict)
    generator: Any = None
    logger: Any = None


GROUPS: dict[str, dict[str, Any]] = {
    "data": {"data": DataConf},
    "prefix": {
        "first_tokens": FirstTokensConf,
        "reasoning_words": ReasoningWordsConf,
        "fraction": FractionConf,
    },
    "model": {
        "model": ModelConf,
        "linear": LinearConf,
    },
    "loss": {
        "focal": FocalConf,
        "bce": BCEConf,
        "weighted_bce": WeightedBCEConf,
        "ranking": RankingConf,
    },
    "sampler": {
        "natural": NaturalConf,
        "oversample": OversampleConf,
        "balanced": BalancedConf,
        "question_balanced": QuestionBalancedConf,
    },
    "sweep": {"sweep": SweepConf},
    "engine": {
        "replay": ReplayConf,
        "scripted": ScriptedConf,
        "vllm": VllmConf,
        "openai": OpenAIConf,
    },
    "questions": {
        "question_file": QuestionFileConf,
        "hub_questions": HubQuestionsConf,
        "generated_questions": GeneratedQuestionsConf,
        "recorded_questions": RecordedQuestionsConf,
    },
    "prompt": {"prompt": PromptConf},
    "sampling": {"sampling": SamplingConf},
    "distributed": {"processes": ProcessesConf, "ray": RayConf},
    "judge": {
        "lexical": LexicalConf,
        "length_only": LengthOnlyConf,
        "sentence_embedding": SentenceEmbeddingConf,
        "oracle": OracleConf,
        "coin": CoinConf,
        "noisy_oracle": NoisyOracleConf,
        "trained": TrainedConf,
        "cascade": CascadeConf,
        "zero_shot": ZeroShotConf,
    },
    "logger": {"wandb": WandbConf},
}


POLICIES: dict[str, Any] = {
    "deepprune": DeepPruneConf,
    "representatives": RepresentativesConf,
    "deepconf": DeepConfConf,
    "deepconf_offline": DeepConfOfflineConf,
    "slim_sc": SlimSCConf,
    "adaptive_consistency": AdaptiveConsistencyConf,
    "adaptive_budget": AdaptiveConsistencyConf,
    "esc": ESCConf,
    "early_exit": EarlyExitConf,
    "parallel_probe": ParallelProbeConf,
    "mars": MARSConf,
}


def register() -> None:
    """Make the schemas known to Hydra as ``base_NAME``, each in its group."""
    store = ConfigStore.instance()
    store.store(name="base_train", node=TrainConf)
    store.store(name="base_evaluate", node=EvaluateConf)
    store.store(name="base_judge_report", node=JudgeReportConf)
    store.store(name="base_collect", node=CollectConf)
    store.store(name="base_prune", node=PruneConf)
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            store.store(group=group, name=f"base_{name}", node=schema)
    for name, policy in POLICIES.items():  # a policy adds itself, so that several can be chosen
        store.store(group="pruning", name=f"base_{name}", node=policy, package=f"pruning.{name}")
