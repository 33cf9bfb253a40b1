"""From a composed configuration to objects; with `build_live` all below the commands that sees one.

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
from deepprune.config.judges import export_folder, run_of, sentence_embedding
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.protocols import Need, Policy
from deepprune.core.seeding import generator as generator_of
from deepprune.core.types import PrefixRule, QuestionRef, QuestionTraces, TracePair
from deepprune.data.cells import Cell, cells
from deepprune.data.pairs import build_pairs, build_part
from deepprune.data.splits import Splits, split_questions
from deepprune.evaluation.distributed import Distributed
from deepprune.evaluation.grid import Point, grid
from deepprune.evaluation.ledger import GeneratorSize, generator_size
from deepprune.evaluation.runner import MakeEngine
from deepprune.evaluation.selection import select_questions
from deepprune.evaluation.watcher import Watcher
from deepprune.judge.base import Judge
from deepprune.judge.baselines import (
    LengthOnlyJudge,
    LexicalJudge,
    QuestionOnlyJudge,
)
from deepprune.judge.linear import LinearArchitecture
from deepprune.judge.loading import LEXICAL
from deepprune.judge.saved import RECORD, read_record
from deepprune.traces import TraceStore, open_traces

REPLAY = "deepprune.pruning.replay.ReplayEngine"


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

    def points(self, n_traces: int, judges: Sequence[str]) -> list[Point]:
        """The grid for N traces a question and judges of these names.

        Raises:
            InputError: If a k or an N exceeds it, or an axis is no field of its policy.
        """
        if self.ks and max(self.ks) > n_traces:
            raise InputError(f"sweep.ks must not exceed N = {n_traces}, got {max(self.ks)}.")
        return grid(
            self.policies,
            n_traces=n_traces,
            judges=judges,
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
    rule: Any = prefix_rule(config)
    policies: dict[str, Policy] = {}
    for name, policy in config.pruning.items():
        with inputs_of(f"pruning.{name}"):
            policies[str(name)] = instantiated(policy)
    if rule.kind == "fraction":
        print(
            "prefix=fraction needs the finished length, which no running policy has: policies "
            "with a prefix are skipped"
        )
        policies = {name: p for name, p in policies.items() if not hasattr(p, "prefix")}
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
    """Build the prefix rule."""
    rule: PrefixRule = instantiated(config.prefix)
    return rule


def _replaced(rule: Any, k: float) -> PrefixRule:
    whole = type(rule.k)(k)
    if whole != k:
        raise InputError(f"sweep.prefix_lens of {rule.kind} are whole numbers, got {k:g}.")
    with inputs_of("sweep.prefix_lens"):
        changed: PrefixRule = replace(rule, k=whole)
    return changed


def store(config: DictConfig) -> TraceStore:
    """The store behind ``traces``."""
    return open_traces(config.traces)


def groups(config: DictConfig, store: TraceStore) -> list[QuestionTraces]:
    """The traces of the configured models and data sets."""
    data = config.data
    return store.load(
        models=None if data.models is None else list(data.models),
        datasets=None if data.datasets is None else list(data.datasets),
    )


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
    known = {name: instantiated(size) for name, size in config.generators.items()}
    return {model: generator_size(model, known) for model in models}


def make_engine(config: DictConfig) -> MakeEngine:
    """Return the maker of the replay engine.

    Raises:
        InputError: If the engine generates them instead.
    """
    if config.engine._target_ != REPLAY:
        raise InputError(
            "a sweep runs on recorded traces, engine=replay: record some with deepprune collect, "
            "or prune live with deepprune prune."
        )
    made: MakeEngine = instantiated(config.engine)
    with inputs_of("engine"):
        made([])
    return made


def distributed(config: DictConfig) -> Distributed:
    """Return where the questions of the sweep are evaluated."""
    made: Distributed = instantiated(config.distributed)
    return made


@dataclass(frozen=True)
class FitParts:
    """A training, before any weights are read.

    Attributes:
        rule: Where prefixes end.
        answer_style: How traces state their answers, by data set.
        calibration: How logits become scores.
        architecture: Builds the model and the judge, see ``judge.network.architecture``.
        loss: Of logits, labels and groups.
        sampler: Makes the training sampler.
        optimizer: Makes the optimiser of parameters.
    """

    rule: PrefixRule
    answer_style: dict[str, str]
    calibration: str
    architecture: Any
    loss: Any
    sampler: Any
    optimizer: Any


def fit_parts(config: DictConfig) -> FitParts:
    """The cheap objects of a training; constructors check their values here."""
    from deepprune.data.samplers import BucketBatchSampler

    model = config.model
    if model.scheduler not in (None, "linear", "cosine"):
        raise InputError(
            f"model.scheduler must be linear, cosine or null, got {model.scheduler!r}."
        )
    if not 0 <= model.warmup < 1:
        raise InputError(f"model.warmup must be a share of the steps below 1, got {model.warmup}.")
    sampler = instantiated(config.sampler)
    with inputs_of("sampler"):
        BucketBatchSampler(sampler([0, 1], [0, 0], 0), [1, 1], config.data.batch_size)
    return FitParts(
        prefix_rule(config),
        answer_style(config),
        config.calibration,
        _architecture(model),
        instantiated(config.loss),
        sampler,
        instantiated(model.optimizer),
    )


def _architecture(model: DictConfig) -> Any:
    """The kind of judge that is trained; its constructor checks its settings."""
    if "groups" in model:
        return LinearArchitecture(list(model.groups), model.hidden)
    from deepprune.judge.network.cross_encoder import CrossEncoderArchitecture

    settings: Any = OmegaConf.to_container(model.encoder)
    return CrossEncoderArchitecture(
        instantiated(model.backbone), symmetric=model.symmetric, encoder=settings
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
            "data.fractions must all be above 0: validation chooses the weights and calibrates, "
            f"the test is reported; got {list(config.data.fractions)}."
        )
    with inputs_of("data"):
        return split_questions(
            groups,
            list(config.data.fractions),
            holdout_models=list(config.data.holdout_models),
            fold=config.data.fold,
            seed=config.data.split_seed,
        )


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


def datamodule(config: DictConfig, parts: FitParts, splits: Splits) -> Any:
    """Batches of pairs."""
    from deepprune.data.datamodule import JudgeDataModule

    data = config.data
    with inputs_of("model"):
        encoding = parts.architecture.encoding  # reads a tokenizer
    return JudgeDataModule(
        splits,
        parts.rule,
        encoding,
        parts.sampler,
        batch_size=data.batch_size,
        pairs_per_question=data.pairs_per_question,
        eval_pairs_per_question=data.eval_pairs_per_question,
        only_unfinished=data.only_unfinished,
        answer_style=parts.answer_style,
        seed=config.seed,
    )


def module(config: DictConfig, parts: FitParts, data: Any) -> Any:
    """The LightningModule; the model's weights are read when the fit begins."""
    from deepprune.judge.network.module import JudgeModule

    return JudgeModule(
        lambda: parts.architecture.build(data.encoded("train").inputs),
        parts.loss,
        parts.optimizer,
        config.model.scheduler,
        warmup=config.model.warmup,
        seed=config.seed,
    )


def trainer(config: DictConfig, folder: Path, loggers: list[Any], callbacks: list[Any]) -> Any:
    """Lightning's Trainer, with the configured callbacks before ``callbacks``."""
    from pytorch_lightning.callbacks import Checkpoint, ProgressBar

    configured = _callbacks(config, "training")
    has_checkpoints = any(isinstance(c, Checkpoint) for c in configured)
    precision = config.trainer.precision
    return instantiated(
        config.trainer,
        precision=_fast_precision(config.trainer.accelerator) if precision == "auto" else precision,
        default_root_dir=str(folder),
        logger=loggers,
        callbacks=[*configured, *callbacks],
        enable_checkpointing=has_checkpoints,
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in configured),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the samplers know their rank
    )


def _fast_precision(accelerator: str) -> str:
    """bfloat16 where the hardware has it: emulated, it is slower than float32."""
    import torch

    from deepprune.judge.network.cross_encoder import has_fast_bfloat16

    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if has_fast_bfloat16("cuda" if on_gpu else "cpu") else "32-true"


def judge(config: DictConfig) -> Judge:
    """Build the judge of an evaluation."""
    made: Judge = instantiated(config.judge)
    return made


def judge_needs(config: DictConfig) -> frozenset[Need]:
    """What the judge of an evaluation reads of the traces, without loading it."""
    folders = _judge_folders(config)
    if folders:
        return frozenset[Need]().union(*(read_record(folder).needs for folder in folders))
    needs: frozenset[Need] = getattr(get_object(config.judge._target_), "needs", Judge.needs)
    return needs


def judge_hash(config: DictConfig) -> str | None:
    """Identify trained judges without loading them: each ``judge.json`` names its weights."""
    hashes = []
    for folder in _judge_folders(config):
        if not (folder / RECORD).is_file():
            raise InputError(
                f"judge.path must be a folder that train.py has exported, got {str(folder)!r} "
                f"without {RECORD}: give the folder `judge` of its run."
            )
        hashes.append(sha256_file(folder / RECORD))
    return " ".join(hashes) or None


def _judge_folders(config: DictConfig) -> list[Path]:
    """The exports that ``judge`` names: of one judge, or the two of a cascade."""
    names = [config.judge.get(option) for option in ("path", "cheap", "expensive")]
    return [Path(name) for name in names if name not in (None, LEXICAL)]


def judge_sample(
    config: DictConfig, store: TraceStore, questions: Sequence[QuestionRef], rules: Sequence[Any]
) -> list[TracePair]:
    """Pairs of up to 64 questions of a run, up to 50 of each and every prefix rule."""
    order = generator_of(config.seed, "judge sample").permutation(len(questions))[:64]
    groups = [store.group(questions[i]) for i in sorted(order.tolist())]
    return [
        pair
        for group in groups
        for rule in rules
        for pair in build_pairs(group, rule, max_pairs=50, seed=config.seed)
    ]


def exports(config: DictConfig) -> dict[str, Path]:
    """The exports of a judge report by short names, no two alike; an export or its run is named.

    Raises:
        InputError: If there are none, or a folder is neither.
    """
    folders = [export_folder(path) or Path(path) for path in config.judges]
    if not folders or len(set(folders)) < len(folders):
        raise InputError(
            f"judge-report needs one judge or more, each once, got {list(config.judges)}: give the "
            "folders that train.py exported, as in deepprune judge-report runs/DIR traces=pool."
        )
    names = [read_record(folder).name for folder in folders]
    runs = [f"{name} {run_of(folder)}" for name, folder in zip(names, folders, strict=True)]
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


def export_rule(config: DictConfig, export: Path) -> PrefixRule:
    """The prefixes on which a judge is reported: the configured ones, else those of its training.

    Raises:
        InputError: If neither is known.
    """
    if config.prefix is not None:
        return prefix_rule(config)
    if (rule := read_record(export).prefix_rule) is None:
        raise InputError(
            f"the judge in {export} does not say on which prefixes it was trained: give them, as "
            "prefix=first_tokens prefix.k=500."
        )
    return rule


def baselines(config: DictConfig) -> dict[str, Judge]:
    """Build the baseline judges, by name."""
    made: dict[str, Callable[[], Judge]] = {
        "question_only": QuestionOnlyJudge,
        "length_only": LengthOnlyJudge,
        "lexical": LexicalJudge,
        "sentence_embedding": sentence_embedding,
    }
    if unknown := sorted(set(config.baselines) - set(made)):
        raise InputError(f"baselines must be some of {', '.join(made)}, got {unknown[0]!r}.")
    return {name: made[name]() for name in config.baselines}


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


def sweep_callbacks(config: DictConfig) -> list[Watcher]:
    """Build the watchers of the sweep."""
    return _callbacks(config, "sweep")


def _callbacks(config: DictConfig, part: str) -> list[Any]:
    """Make the callbacks of a part; one that is ``null`` is switched off."""
    nodes = (config.callbacks.get(part) or {}).values()
    return [instantiated(node) for node in nodes if node is not None]


@contextmanager
def inputs_of(name: str) -> Iterator[None]:
    """A ``ValueError`` of a constructor is one of the option ``name``."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def instantiated(node: Any, *arguments: Any, **keywords: Any) -> Any:
    """Hydra's ``instantiate``; an InputError of a constructor passes as it is."""
    from hydra.errors import InstantiationException

    try:
        return instantiate(node, *arguments, **keywords)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        raise
