"""From a composed configuration to objects: the only module below the commands that sees one.

Cheap objects first: a bad value fails before any trace is read and any model loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from deepprune.answers import AnswerStyle
from deepprune.data.cells import Cell, cells
from deepprune.data.pairs import build_part
from deepprune.data.questions import QuestionSource, RecordedQuestions
from deepprune.data.splits import Splits, question_hash, split_questions
from deepprune.engines.live import LiveEngine
from deepprune.engines.scripted import ScriptedBackend
from deepprune.errors import InputError
from deepprune.evaluation.callback import EvaluatorCallback
from deepprune.evaluation.distributed import Distributed
from deepprune.evaluation.ledger import GeneratorSize, generator_size
from deepprune.evaluation.question import MakeEngine
from deepprune.evaluation.selection import check_judge_needs, select_questions
from deepprune.evaluation.sweep import Point, grid
from deepprune.files import sha256_file
from deepprune.judge.base import Judge
from deepprune.judge.baselines import LengthOnlyJudge, LexicalJudge, QuestionOnlyJudge
from deepprune.judge.boosting import Boosting
from deepprune.judge.calibration import METHODS
from deepprune.judge.cascade import Cascade
from deepprune.judge.folder import RECORD, needs_of, read_record, rule_from_json
from deepprune.judge.probe import LogisticRegression
from deepprune.protocols import Need, Policy
from deepprune.traces import TraceStore, open_traces
from deepprune.types import PrefixRule, Question, QuestionRef, QuestionTraces, TracePair

REPLAY = "deepprune.engines.replay.ReplayEngine"


@dataclass(frozen=True)
class Sweep:
    """The axes of a sweep, checked."""

    policies: Mapping[str, Policy]
    thresholds: Sequence[float]
    prefixes: Sequence[PrefixRule]
    ks: Sequence[int]
    ns: Sequence[int]
    axes: Mapping[str, Mapping[str, Sequence[Any]]]
    skip_unmet: bool
    resamples: int
    seed: int
    baseline: str
    margin: float
    usd_judge: float | None

    def points(self, n_traces: int) -> list[Point]:
        """The grid for N traces a question.

        Raises:
            InputError: If a k or an N exceeds it, or an axis is no field of its policy.
        """
        if self.ks and max(self.ks) > n_traces:
            raise InputError(f"sweep.ks must not exceed N = {n_traces}, got {max(self.ks)}.")
        return grid(
            self.policies,
            n_traces=n_traces,
            thresholds=self.thresholds,
            prefixes=self.prefixes,
            ks=self.ks,
            ns=self.ns,
            axes=self.axes,
        )


def sweep(config: DictConfig) -> Sweep:
    """Policies and axes.

    Raises:
        InputError: If an axis is empty or a value out of range.
    """
    axes = config.sweep
    for name in ("thresholds", "prefix_lens"):
        if not len(axes[name]):
            raise InputError(f"sweep.{name} is empty: give at least one value.")
    for threshold in axes.thresholds:
        if not 0 <= threshold <= 1:
            raise InputError(
                f"thresholds must lie in [0, 1], got {threshold:g}. A judge score is a "
                "probability; did you pass a percentage?"
            )
    if min(axes.ks, default=1) < 1:
        raise InputError(f"sweep.ks must be numbers of traces >= 1, got {list(axes.ks)}.")
    if axes.resamples < 1:
        raise InputError(f"sweep.resamples must be at least 1, got {axes.resamples}.")
    rule: Any = prefix_rule(config)
    policies: dict[str, Policy] = {}
    for name, policy in config.pruning.items():
        with _inputs(f"pruning.{name}"):
            policies[str(name)] = _instantiate(policy)
    if rule.kind == "fraction":
        print("no policy knows a trace's length in time: prefix=fraction sweeps no prefix policies")
        policies = {name: p for name, p in policies.items() if not hasattr(p, "prefix")}
    if not 0 < axes.margin < 1:
        raise InputError(
            f"sweep.margin must be a share of the questions between 0 and 1, got {axes.margin:g}."
        )
    return Sweep(
        policies,
        list(axes.thresholds),
        [_replaced(rule, k) for k in axes.prefix_lens],
        list(axes.ks),
        list(axes.ns),
        {name: dict(fields) for name, fields in axes.axes.items()},
        axes.skip_unmet,
        axes.resamples,
        config.seed,
        axes.baseline,
        axes.margin,
        axes.usd_judge,
    )


def has_sweep(config: DictConfig) -> bool:
    """Whether a training is followed by a pruning sweep."""
    return bool(config.sweep.questions != 0)


def prefix_rule(config: DictConfig) -> PrefixRule:
    """Where prefixes end."""
    rule: PrefixRule = _instantiate(config.prefix)
    return rule


def _replaced(rule: Any, k: float) -> PrefixRule:
    whole = type(rule.k)(k)
    if whole != k:
        raise InputError(f"sweep.prefix_lens of {rule.kind} are whole numbers, got {k:g}.")
    with _inputs("sweep.prefix_lens"):
        changed: PrefixRule = replace(rule, k=whole)
    return changed


def store(config: DictConfig) -> TraceStore:
    """The store behind ``traces``."""
    return open_traces(config.traces)


def groups(config: DictConfig, store: TraceStore) -> list[QuestionTraces]:
    """The traces of the configured models and data sets."""
    data = config.data
    chosen = store.load(
        models=None if data.models is None else list(data.models),
        datasets=None if data.datasets is None else list(data.datasets),
    )
    if not chosen:
        raise InputError(
            f"{config.traces} has no traces of data.models={data.models} and "
            f"data.datasets={data.datasets}; it has models {sorted(store.models)} and data sets "
            f"{sorted(store.datasets)}."
        )
    return chosen


def refs(config: DictConfig, store: TraceStore) -> list[QuestionRef]:
    """What the store has of the configured models and data sets, without reading the traces."""
    data = config.data
    return store.refs(
        models=None if data.models is None else list(data.models),
        datasets=None if data.datasets is None else list(data.datasets),
    )


def questions(config: DictConfig, refs: Sequence[QuestionRef]) -> tuple[list[QuestionRef], int]:
    """The questions of the sweep, and N."""
    return select_questions(
        refs,
        n_questions=config.sweep.questions,
        n_traces=config.sweep.traces,
        skip_short=config.sweep.skip_short,
        seed=config.seed,
    )


def generators(config: DictConfig, questions: Sequence[QuestionRef]) -> dict[str, GeneratorSize]:
    """The size of every model whose traces are evaluated."""
    models = {q.model for q in questions}
    if config.generator is not None:
        try:
            return dict.fromkeys(models, GeneratorSize(**config.generator))
        except TypeError as error:
            raise InputError(f"generator needs params, layers and hidden: {error}.") from error
    known = {name: _instantiate(size) for name, size in config.generators.items()}
    return {model: generator_size(model, known) for model in models}


def make_engine(config: DictConfig) -> MakeEngine:
    """What serves the recorded traces of a question.

    Raises:
        InputError: If the engine generates them instead.
    """
    if config.engine._target_ != REPLAY:
        raise InputError(
            "a sweep runs on recorded traces, engine=replay: record some with deepprune collect, "
            "or prune live with deepprune prune."
        )
    made: MakeEngine = _instantiate(config.engine)
    with _inputs("engine"):
        made([])
    return made


def live_engine(config: DictConfig, base_url: str | None = None) -> LiveEngine:
    """What generates traces; nothing is loaded or connected before it starts.

    Args:
        config: Of a command that generates.
        base_url: The server, where it is not the configured one.

    Raises:
        InputError: If the engine only replays, or a value is out of its range.
    """
    if config.engine._target_ == REPLAY:
        raise InputError("engine=replay generates nothing: take engine=vllm, openai or scripted.")
    node = OmegaConf.to_container(config.engine, resolve=True)
    assert isinstance(node, dict)
    if base_url is not None:
        if "base_url" not in node:
            raise InputError("only engine=openai has replicas, one for each base_url.")
        node["base_url"] = base_url
    with _inputs("engine"):
        return LiveEngine(
            _instantiate(node),
            _instantiate(config.prompt),
            _instantiate(config.sampling),
            **config.live,
        )


def scripted(traces: str, model: str | None, seconds_per_token: float) -> ScriptedBackend:
    """Plays ``traces`` (the pool, a store or a file), of one model, as if they were generated."""
    groups = open_traces(traces).load(models=None if model is None else [model])
    return ScriptedBackend(groups, seconds_per_token)


def is_replay(config: DictConfig) -> bool:
    """Whether the engine replays recorded traces."""
    return bool(config.engine._target_ == REPLAY)


def played_traces(config: DictConfig) -> str | None:
    """The recorded traces that the engine replays or plays; ``None`` where a model generates."""
    played: str | None = config.traces if is_replay(config) else config.engine.get("traces")
    return played


@dataclass(frozen=True)
class Live:
    """How questions are pruned live, checked.

    Attributes:
        policy: The one that decides.
        n_traces: N.
        judge_timeout_s: The longest that the judge may take for one answer.
        view: ``live``, ``json`` or ``none``.
        seed: Decides the traces' seeds and the policy's draws.
    """

    policy: Policy
    n_traces: int
    judge_timeout_s: float
    view: str
    seed: int


VIEWS = ("live", "json", "none")


def live(config: DictConfig) -> Live:
    """The policy and settings of ``deepprune prune``.

    Raises:
        InputError: If there is not exactly one policy, or a value is out of range.
    """
    names = [str(name) for name in config.pruning]
    if len(names) != 1:
        raise InputError(
            f"a live run has exactly one policy, got {', '.join(names) or 'none'}: choose one with "
            "pruning=NAME, and compare policies with deepprune evaluate."
        )
    with _inputs(f"pruning.{names[0]}"):
        policy: Any = _instantiate(config.pruning[names[0]])
    rule = getattr(policy, "prefix", None)
    if rule is not None and rule.kind == "fraction":
        raise InputError("no policy knows a trace's length in time: take another prefix=NAME.")
    if config.threshold is not None:
        if not hasattr(policy, "threshold"):
            raise InputError(f"{policy.name} has no threshold: leave threshold out.")
        if not 0 <= config.threshold <= 1:
            raise InputError(
                f"threshold must lie in [0, 1], got {config.threshold:g}. A judge score is a "
                "probability; did you pass a percentage?"
            )
        policy = replace(policy, threshold=config.threshold)
    chosen = config.prune
    if chosen.traces < 2:
        raise InputError(f"a vote needs at least 2 traces, got prune.traces={chosen.traces}.")
    if chosen.judge_timeout_s <= 0:
        raise InputError(f"prune.judge_timeout_s must be positive, got {chosen.judge_timeout_s:g}.")
    if config.view not in VIEWS:
        raise InputError(f"view must be one of {', '.join(VIEWS)}, got {config.view!r}.")
    is_oracle = getattr(policy, "judge", None) == "oracle"
    asks = Need.JUDGE in policy.needs
    if not is_replay(config) and (is_oracle or (asks and config.judge._target_ in ORACLES)):
        raise InputError(
            "an oracle knows the final answers, which nobody does while traces are generated: take "
            "another judge=NAME or pruning=NAME, or engine=replay."
        )
    return Live(policy, chosen.traces, chosen.judge_timeout_s, config.view, config.seed)


ORACLES = (
    "deepprune.judge.baselines.OracleJudge",
    "deepprune.judge.baselines.NoisyOracleJudge",
)


def live_needs(config: DictConfig, policy: Policy) -> frozenset[Need]:
    """What the policy, and the judge that it asks, read of the traces; loads no judge.

    Raises:
        InputError: If the traces will not have it: confidences or forced answers are switched off.
    """
    asks = Need.JUDGE in policy.needs
    of_judge = judge_needs(config) if asks else frozenset()
    if not is_replay(config):
        if Need.CONFIDENCE in policy.needs and config.sampling.logprobs == 0:
            raise InputError(
                f"{policy.name} needs token confidences, and sampling.logprobs=0 asks for none: "
                "give the k of the top-k log-probabilities, e.g. sampling.logprobs=5."
            )
        if Need.PROBES in of_judge and config.live.probe_every is None:
            raise InputError(
                "this judge reads forced answers, and live.probe_every=null forces none: give the "
                "tokens between two, e.g. live.probe_every=500."
            )
    return policy.needs - {Need.JUDGE} | of_judge


def live_questions(config: DictConfig) -> list[Question]:
    """What ``deepprune prune`` is asked: the given text, a set, or all that a replay has.

    Where the traces are recorded, the text or the id of a recorded question names it.

    Raises:
        InputError: If there is none, both a text and a set are given, or a recording lacks it.
    """
    text, is_set = config.question, config.questions is not None
    if text is not None and is_set:
        raise InputError("give a question or questions=NAME, not both.")
    if text is not None and not text.strip():
        raise InputError("the question is empty: write it in quotes behind deepprune prune.")
    if is_set:
        return question_set(config)
    if text is None and is_replay(config):
        return RecordedQuestions(traces=config.traces).load()
    if text is None:
        raise InputError(
            'prune needs a question: deepprune prune "What is 12*13?" (- for standard input, '
            "@FILE for a file), or a set with questions=NAME."
        )
    if (played := played_traces(config)) is None:
        return [Question("question", question_hash(text)[:12], text)]
    recorded = RecordedQuestions(traces=played).load()
    wanted = question_hash(text)
    for question in recorded:
        if question.question_id == text.strip() or question_hash(question.text) == wanted:
            return [question]
    raise InputError(
        f"{played} has no traces of this question; it has {len(recorded)} questions, e.g. "
        f"{recorded[0].question_id} ({recorded[0].text.strip()[:60]!r}): give the text or the id "
        "of one, or a model, as in engine=vllm engine.model=Qwen/Qwen3-8B."
    )


def live_generator(config: DictConfig, model: str) -> GeneratorSize | None:
    """The generator's size; ``None`` where nobody has given it: nothing net is claimed then."""
    known = {str(name) for name in config.generators}
    for name in (model, model.rpartition("/")[2]):
        if config.generator is not None or name in known:
            question = Question("", "", "")
            return generators(config, [QuestionRef(question, name, 0)])[name]
    return None


def question_set(config: DictConfig) -> list[Question]:
    """The questions of a command that generates.

    Raises:
        InputError: If they cannot be had, or a value is out of its range; if they are multiple
            choice and the prompt reads no letters.
    """
    columns, style = config.questions.get("columns"), config.prompt.answer_style
    if columns is not None and columns.wrong and style != "choice":
        raise InputError(
            "the answers to these questions are the letters of choices, and "
            f"prompt.answer_style {style!r} reads no letters: take prompt=choice, or "
            "prompt=reasoning_choice where the model thinks."
        )
    with _inputs("questions"):
        source: QuestionSource = _instantiate(config.questions)
    return source.load()


def replicas(config: DictConfig) -> dict[str, LiveEngine]:
    """The engines of a collection by name; nothing is loaded or connected before they start.

    Raises:
        InputError: If a value is out of its range, or the engine has no replicas.
    """
    for name in ("n", "concurrency"):
        if config.collect[name] < 1:
            raise InputError(f"collect.{name} must be at least 1, got {config.collect[name]}.")
    urls = config.collect.replicas
    if urls is None:
        return {"the engine": live_engine(config)}
    if not urls or len(set(urls)) < len(urls):
        raise InputError(f"collect.replicas must be servers, each once, got {list(urls)}.")
    return {url: live_engine(config, url) for url in urls}


def generation(config: DictConfig) -> dict[str, Any]:
    """What a store's manifest says of how its questions came and were asked."""
    nodes = ("questions", "prompt", "engine")
    parts = {name: OmegaConf.to_container(config[name], resolve=True) for name in nodes}
    return {**parts, "seed": config.seed}


def distributed(config: DictConfig) -> Distributed:
    """Who does the questions of the sweep."""
    made: Distributed = _instantiate(config.distributed)
    return made


@dataclass(frozen=True)
class Network:
    """What the training of a neural network is made of, before any weights are read."""

    architecture: Any
    loss: Any
    sampler: Any
    optimizer: Any
    scheduler: Any

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads of the traces."""
        needs: frozenset[Need] = self.architecture.needs
        return needs


@dataclass(frozen=True)
class FitParts:
    """A training: prefixes, how answers are stated, how scores are calibrated, what learns."""

    rule: PrefixRule
    answer_style: dict[str, str]
    calibration: str
    learner: Network | Boosting | LogisticRegression | Cascade


def fit_parts(config: DictConfig) -> FitParts:
    """The cheap objects of a training; constructors check their values here."""
    for name in ("pairs_per_question", "eval_pairs_per_question", "batch_size"):
        if config.data[name] is not None and config.data[name] < 1:
            raise InputError(f"data.{name} must be at least 1, got {config.data[name]}.")
    learner = _instantiate(config.model) if "_target_" in config.model else _network(config)
    if config.data.soft_labels and not isinstance(learner, Network):
        raise InputError(
            "data.soft_labels=true needs a model that is a neural network: features, probe and "
            "cascade learn from hard labels; leave it out, or take model=bi_encoder."
        )
    if config.calibration not in METHODS:
        raise InputError(
            f"calibration must be one of {', '.join(METHODS)}, got {config.calibration!r}."
        )
    return FitParts(prefix_rule(config), answer_style(config), config.calibration, learner)


def learner_hashes(parts: FitParts) -> dict[str, str]:
    """What identifies the judges that a training starts from."""
    folders = parts.learner.folders if isinstance(parts.learner, Cascade) else {}
    return {name: export_hash(folder) for name, folder in folders.items()}


def check_learner(parts: FitParts, splits: Splits) -> None:
    """Hold what learns against the traces, before anything is computed.

    Raises:
        InputError: If they lack what it reads, or its judges know another split of them.
    """
    check_judge_needs(parts.learner.needs, [*splits.train, *splits.val, *splits.test])
    if isinstance(parts.learner, Cascade):
        tested = frozenset(question_hash(group.question.text) for group in splits.test)
        parts.learner.check_unseen(splits.seen_questions(), tested)


def _network(config: DictConfig) -> Network:
    from deepprune.data.samplers import BucketBatchSampler

    model = config.model
    sampler = _instantiate(config.sampler)
    with _inputs("sampler"):
        BucketBatchSampler(sampler([0, 1], [0, 0], 0), [1, 1], config.data.batch_size)
    return Network(
        _architecture(model),
        _instantiate(config.loss),
        sampler,
        _instantiate(model.optimizer),
        None if model.scheduler is None else _instantiate(model.scheduler),
    )


def _architecture(model: DictConfig) -> Any:
    """The kind of network; its constructor checks its settings."""
    backbone = _instantiate(model.backbone)
    if "interactions" not in model:
        from deepprune.judge.cross_encoder import CrossEncoderArchitecture

        settings: Any = OmegaConf.to_container(model.encoder)
        return CrossEncoderArchitecture(backbone, symmetric=model.symmetric, encoder=settings)
    from deepprune.judge.bi_encoder import BiEncoderArchitecture, BiEncoderSettings

    decay, rate = (model.optimizer.get(name, 0) for name in ("weight_decay", "lr"))
    if not backbone.freeze and model.interactions and decay * rate > 1e-3:
        raise InputError(
            "a backbone that is fine-tuned would be lost to "
            f"model.optimizer.weight_decay={decay:g}, which is made for a head alone: take "
            "model.optimizer._target_=torch.optim.AdamW, "
            "lr=2e-4, weight_decay=0.01, ~model.optimizer.momentum."
        )
    with _inputs("model"):
        return BiEncoderArchitecture(
            BiEncoderSettings(
                backbone,
                model.max_length,
                list(model.interactions),
                model.peers,
                model.probes,
                model.hidden,
            )
        )


def answer_style(config: DictConfig) -> dict[str, str]:
    """How traces state their answers, by data set."""
    styles = {str(name): str(style) for name, style in config.data.answer_style.items()}
    for name, style in styles.items():
        if style not in list(AnswerStyle):
            raise InputError(
                f"data.answer_style.{name} must be one of {', '.join(AnswerStyle)}, got {style!r}."
            )
    return styles


def splits(config: DictConfig, groups: Sequence[QuestionTraces]) -> Splits:
    """Training, validation and test questions."""
    if min(config.data.fractions) <= 0:
        raise InputError(
            "data.fractions must all be above 0: validation chooses the checkpoint and calibrates, "
            f"the test is reported; got {list(config.data.fractions)}."
        )
    with _inputs("data"):
        return split_questions(
            groups,
            list(config.data.fractions),
            holdout_models=list(config.data.holdout_models),
            fold=config.data.fold,
            seed=config.data.split_seed,
        )


def encoding(network: Network) -> Any:
    """How pairs become inputs; reads a tokenizer, and a backbone that is frozen."""
    with _inputs("model"):
        return network.architecture.encoding


def part_pairs(config: DictConfig, parts: FitParts, splits: Splits, part: str) -> list[TracePair]:
    """The pairs of ``"train"`` or ``"val"``, the same that ``datamodule`` has."""
    data, is_train = config.data, part == "train"
    return build_part(
        part,
        getattr(splits, part),
        parts.rule,
        max_pairs=data.pairs_per_question if is_train else data.eval_pairs_per_question,
        only_unfinished=is_train and data.only_unfinished,
        answer_style=parts.answer_style,
        seed=config.seed,
    )


def datamodule(config: DictConfig, parts: FitParts, network: Network, splits: Splits) -> Any:
    """Batches of pairs."""
    from deepprune.data.datamodule import JudgeDataModule

    data = config.data
    return JudgeDataModule(
        splits,
        parts.rule,
        encoding(network),
        network.sampler,
        batch_size=data.batch_size,
        pairs_per_question=data.pairs_per_question,
        eval_pairs_per_question=data.eval_pairs_per_question,
        only_unfinished=data.only_unfinished,
        soft_labels=data.soft_labels,
        answer_style=parts.answer_style,
        seed=config.seed,
    )


def module(config: DictConfig, network: Network, data: Any) -> Any:
    """The LightningModule; the model's weights are read when the fit begins."""
    from deepprune.judge.module import JudgeModule

    return JudgeModule(
        lambda: network.architecture.build(data.encoded("train").inputs),
        network.loss,
        network.optimizer,
        network.scheduler,
        seed=config.seed,
    )


def trainer(config: DictConfig, folder: Path, loggers: list[Any], callbacks: list[Any]) -> Any:
    """Lightning's Trainer, with the configured callbacks before ``callbacks``."""
    from pytorch_lightning.callbacks import Checkpoint

    configured = [_instantiate(c) for c in (config.callbacks.get("training") or {}).values()]
    has_checkpoints = any(isinstance(c, Checkpoint) for c in configured)
    precision = config.trainer.precision
    return _instantiate(
        config.trainer,
        precision=_fast_precision(config.trainer.accelerator) if precision == "auto" else precision,
        default_root_dir=str(folder),
        logger=loggers,
        callbacks=[*configured, *callbacks],
        enable_checkpointing=has_checkpoints,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the samplers know their rank
    )


def _fast_precision(accelerator: str) -> str:
    """bfloat16 where the hardware has it: emulated, it is slower than float32."""
    import torch

    from deepprune.judge.cross_encoder import has_fast_bfloat16

    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if has_fast_bfloat16("cuda" if on_gpu else "cpu") else "32-true"


def judge(config: DictConfig) -> Judge:
    """What scores in an evaluation."""
    made: Judge = _instantiate(config.judge)
    return made


def judge_needs(config: DictConfig) -> frozenset[Need]:
    """What the judge of an evaluation reads of the traces, without loading it."""
    path = config.judge.get("path")
    if path is not None:
        return needs_of(Path(path))
    needs: frozenset[Need] = getattr(get_object(config.judge._target_), "needs", Judge.needs)
    return needs


def judge_hash(config: DictConfig) -> str | None:
    """What identifies a trained judge without loading it: its ``judge.json`` names its weights."""
    path = config.judge.get("path")
    if path is None:
        return None
    if not (record := Path(path) / RECORD).is_file():
        raise InputError(
            f"judge.path must be a folder that train.py has exported, got {path!r} without "
            f"{RECORD}: give the folder `judge` of its run."
        )
    return sha256_file(record)


def exports(config: DictConfig) -> dict[str, Path]:
    """The exports of a judge report by short names, no two alike; an export or its run is named.

    Raises:
        InputError: If there are none, or a folder is neither.
    """
    folders = [Path(path) for path in config.judges]
    folders = [f if (f / RECORD).is_file() else f / "judge" for f in folders]
    if not folders or len(set(folders)) < len(folders):
        raise InputError(
            f"judge-report needs one judge or more, each once, got {list(config.judges)}: give the "
            "folders that train.py exported, as in deepprune judge-report runs/DIR traces=pool."
        )
    names = [str(read_record(folder)["name"]) for folder in folders]
    runs = [f"{name} {_run_of(folder)}" for name, folder in zip(names, folders, strict=True)]
    paths = [f"{name} {folder}" for name, folder in zip(names, folders, strict=True)]
    shortest = [
        next(
            name
            for name, all_ in zip(each, (names, runs, paths), strict=True)
            if all_.count(name) == 1
        )
        for each in zip(names, runs, paths, strict=True)
    ]
    return dict(zip(shortest, folders, strict=True))


def _run_of(export: Path) -> str:
    """The run that an export is of, `runs/DIR/judge`; by its whole path, of other places."""
    return export.parent.name if export.name == "judge" else str(export)


def export_rule(config: DictConfig, export: Path) -> PrefixRule:
    """The prefixes on which a judge is reported: the configured ones, else those of its training.

    Raises:
        InputError: If neither is known.
    """
    if config.prefix is not None:
        return prefix_rule(config)
    if (rule := rule_from_json(read_record(export)["prefix_rule"])) is None:
        raise InputError(
            f"the judge in {export} does not say on which prefixes it was trained: give them, as "
            "prefix=first_tokens prefix.k=500."
        )
    return rule


def export_hash(export: Path) -> str:
    """Identifies a judge without loading it: its record names its weights."""
    return sha256_file(export / RECORD)


def baselines(config: DictConfig) -> dict[str, Judge]:
    """What judges are compared with, by name."""
    made: dict[str, Callable[[], Judge]] = {
        "question_only": QuestionOnlyJudge,
        "length_only": LengthOnlyJudge,
        "lexical": LexicalJudge,
        "sentence_embedding": _sentence_embedding,
    }
    if unknown := sorted(set(config.baselines) - set(made)):
        raise InputError(f"baselines must be some of {', '.join(made)}, got {unknown[0]!r}.")
    return {name: made[name]() for name in config.baselines}


def _sentence_embedding() -> Judge:
    from deepprune.judge.embedding import SentenceEmbeddingJudge  # torch only here

    judge = SentenceEmbeddingJudge()
    judge.read_model()  # where it is missing, that shows now
    return judge


def stores(config: DictConfig) -> dict[str, TraceStore]:
    """The stores of a judge report by the names that the user gave them."""
    return {str(name): open_traces(name) for name in config.traces}


def report_cells(config: DictConfig, stores: Mapping[str, TraceStore]) -> dict[str, list[Cell]]:
    """Which traces of each store are paired; of the configured models and data sets it has.

    Raises:
        InputError: If no store has any of them.
    """
    models, datasets = config.data.models, config.data.datasets
    found: dict[str, list[Cell]] = {}
    for name, store in stores.items():
        chosen = [
            ref
            for ref in store.refs()
            if (models is None or ref.model in models)
            and (datasets is None or ref.question.dataset in datasets)
        ]
        found[name] = cells(chosen, config.pairs) if chosen else []
    if not any(found.values()):
        there = [sorted({name for s in stores.values() for name in s.models})]
        there += [sorted({name for s in stores.values() for name in s.datasets})]
        raise InputError(
            f"{', '.join(stores)} has no traces of data.models={models} and "
            f"data.datasets={datasets}; it has models {there[0]} and data sets {there[1]}."
        )
    return found


def sweep_callbacks(config: DictConfig) -> list[EvaluatorCallback]:
    """Who watches the sweep."""
    return [_instantiate(c) for c in (config.callbacks.get("sweep") or {}).values()]


@contextmanager
def _inputs(name: str) -> Iterator[None]:
    """A ``ValueError`` of a constructor is one of the option ``name``."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def _instantiate(node: Any, *arguments: Any, **keywords: Any) -> Any:
    """Hydra's ``instantiate``; an InputError of a constructor passes as it is."""
    from hydra.errors import InstantiationException

    try:
        return instantiate(node, *arguments, **keywords)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        raise
