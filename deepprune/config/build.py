"""Make the plan of a command from its composed configuration.

Cheap objects are made here: a bad value fails before any trace is read and any model loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from deepprune.answers import AnswerStyle
from deepprune.config.instantiation import inputs_of, instantiated
from deepprune.config.judges import (
    choose_judge,
    export_folder,
    further_judges,
    named_judges,
    run_of,
)
from deepprune.config.plans import (
    EvaluatePlan,
    JudgeReportPlan,
    Learner,
    RunPlan,
    Sweep,
    TrainPlan,
)
from deepprune.core.errors import InputError
from deepprune.core.protocols import Need, Policy
from deepprune.core.provenance import flat
from deepprune.core.step_times import StepTimes
from deepprune.core.types import PrefixRule, Question, QuestionTraces
from deepprune.data.cells import Cell, cells
from deepprune.data.splits import Splits, split_questions
from deepprune.evaluation.ledger import GeneratorSize, generator_size
from deepprune.evaluation.metrics import CONSENSUS
from deepprune.evaluation.runner import MakeEngine
from deepprune.evaluation.selection import select_questions
from deepprune.judge.base import UNKNOWN
from deepprune.judge.saved import find_backbone, read_record
from deepprune.traces import TraceStore, open_traces

REPLAY = "deepprune.pruning.replay.ReplayEngine"

OPERATIONAL = {
    "report": ("questions",),
    "collect": ("concurrency", "replicas"),
    "prune": ("judge_timeout_s",),
    "live": ("stall_s",),
    "engine": (
        "base_url",
        "timeout_s",
        "max_retries",
        "max_concurrent",
        "gpu_memory_utilization",
        "max_num_seqs",
    ),
}
"""Options by section that change how a run is carried out, not what it is: it resumes with any."""

CHOICES = ("model", "loss", "sampler", "prefix", "judge", "engine", "questions", "prompt")
"""Groups whose chosen file tells runs apart."""

TRAINED_WITH = ("optimizer", "scheduler", "warmup")
"""Options of a model that its architecture does not take."""


def evaluate(config: DictConfig) -> EvaluatePlan:
    """Make the plan of ``deepprune evaluate``."""
    return EvaluatePlan(
        run_plan(config, "evaluate"),
        _sweep(config, open_traces(config.traces)),
        choose_judge(config.judge),
    )


def train(config: DictConfig) -> TrainPlan:
    """Make the plan of ``train.py``."""
    from deepprune.data.samplers import BucketBatchSampler

    data = config.data
    precision = str(config.trainer.precision)
    if precision.endswith("-true") and precision != "32-true":
        raise InputError(
            f"trainer.precision must keep float32 weights, got {precision}: it rounds positions "
            "and steps. Take bf16-mixed; model.backbone.dtype=bfloat16 halves frozen weights."
        )
    sampler = instantiated(config.sampler)
    with inputs_of("sampler"):
        drawn = sampler([0, 1], [0, 0], 0)
        BucketBatchSampler(drawn, [1, 1], data.batch_size)
    store = open_traces(config.traces)
    return TrainPlan(
        run=run_plan(config, "train"),
        seed=config.seed,
        store=store,
        load_splits=lambda: _splits(config, store),
        split_seed=data.split_seed,
        learner=_learner(config.model),
        beside={
            str(name): _learner(model)
            for name, model in config.beside.items()
            if model != config.model
        },
        rule=_prefix_rule(config),
        answer_style=_answer_style(config),
        only_unfinished=data.only_unfinished,
        pairs_per_question=data.pairs_per_question,
        eval_pairs_per_question=data.eval_pairs_per_question,
        batch_size=data.batch_size,
        group=_group(data.group, data.batch_size, has_blocks=drawn.block > 1),
        loss=instantiated(config.loss),
        sampler=sampler,
        calibration=config.calibration,
        make_trainer=partial(_trainer, config, _devices(config)),
        sweep=_sweep(config, store) if config.sweep.questions != 0 else None,
    )


def _group(group: object, batch_size: int, *, has_blocks: bool) -> int | None:
    """Return ``data.group``, ``None`` for ``auto``; 1 where the sampler has blocks of its own."""
    if has_blocks:
        if group not in ("auto", 1):
            raise InputError(
                f"data.group must be auto or 1 with a sampler that has blocks, got {group!r}: one "
                "pair cannot be in two blocks. Take sampler=natural, oversample or balanced."
            )
        return 1
    if group == "auto":
        return None
    if not isinstance(group, int) or isinstance(group, bool) or group < 1 or batch_size % group:
        raise InputError(
            f"data.group must be auto or a divisor of data.batch_size={batch_size}, got {group!r}: "
            "the candidates of a representative stay in one batch."
        )
    return group


def judge_report(config: DictConfig) -> JudgeReportPlan:
    """Make the plan of ``deepprune judge-report``."""
    exports = _exports(config)
    stores = {str(name): open_traces(name) for name in config.traces}
    return JudgeReportPlan(
        run=run_plan(config, "judge-report"),
        seed=config.seed,
        exports=exports,
        rules={name: _export_rule(config, folder) for name, folder in exports.items()},
        device=config.device,
        baselines={name: named_judges(config.seed)[name]() for name in config.baselines},
        stores=stores,
        cells=_report_cells(config, stores),
        leave_out_seen=config.leave_out_seen,
        words=config.words,
        pairs_per_question=config.data.eval_pairs_per_question,
        answer_style=_answer_style(config),
    )


def run_plan(config: DictConfig, command: str) -> RunPlan:
    """Return where Hydra puts the run, and what identifies it."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    identity: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    for section, names in OPERATIONAL.items():
        if isinstance(options := identity.get(section), dict):
            for name in names:
                options.pop(name, None)
    logger = identity.get("logger") or {}
    identity = {k: v for k, v in identity.items() if k not in ("logger", "distributed", "view")}
    return RunPlan(
        command,
        folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder,
        identity,
        list(hydra.overrides.task),
        _choices(config, command, hydra.runtime.choices),
        _changed(identity, hydra),
        str(hydra.runtime.choices.get("logger")),
        logger,
        Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None,
    )


def _changed(identity: Mapping[str, Any], hydra: Any) -> dict[str, tuple[Any, Any]]:
    """Return the options that differ from the command's defaults, with both values."""
    if not hydra.overrides.task and not identity.get("question"):  # which is no override
        return {}  # to compose the defaults once more takes .2 s
    folder = next(s.path for s in hydra.runtime.config_sources if s.provider == "main")
    default, now = _defaults(hydra.job.config_name, folder), flat(identity)
    return {
        name: (default.get(name), value)
        for name, value in sorted(now.items())
        if value != default.get(name) and not name.endswith("_target_")  # which the choice tells
    }


@cache
def _defaults(name: str, folder: str) -> dict[str, Any]:
    """Return the options of ``conf/NAME.yaml`` by dotted name."""
    is_main = GlobalHydra.instance().is_initialized()  # by `hydra.main`, with the same folder
    with nullcontext() if is_main else initialize_config_dir(folder, name, version_base="1.3"):
        default: Any = OmegaConf.to_container(compose(name), resolve=True, enum_to_str=True)
    return flat(default)


def _choices(config: DictConfig, command: str, groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names that tell runs apart, see `report.tracking`."""
    named = {name: groups[name] for name in CHOICES if isinstance(groups.get(name), str)}
    if "pruning" in config:
        named["policies"] = "+".join(map(str, config.pruning))
    data = {"data": config.traces} if isinstance(config.get("traces"), str) else {}
    fold = {"fold": config.data.fold} if "fold" in (config.get("data") or {}) else {}
    return {"command": command, **named, **data, "seed": config.seed, **fold}


def _sweep(config: DictConfig, store: TraceStore) -> Sweep:
    """Make the sweep over the traces of a store.

    Raises:
        InputError: If an axis is empty or a value out of range.
    """
    axes = config.sweep
    for name in ("thresholds", "prefix_lens"):
        if not len(axes[name]):
            raise InputError(f"sweep.{name} is empty: give at least one value.")
    rule: Any = _prefix_rule(config)
    data = config.data
    sweep = Sweep(
        traces=config.traces,
        store=store,
        refs=store.refs(models=_listed(data.models), datasets=_listed(data.datasets)),
        choose=partial(
            select_questions,
            n_questions=axes.questions,
            n_traces=axes.traces,
            skip_short=axes.skip_short,
            seed=config.seed,
        ),
        judges=further_judges(list(axes.judges), config.seed),
        policies=_policies(config, rule),
        thresholds=list(axes.thresholds),
        prefixes=[_replaced(rule, k) for k in axes.prefix_lens if rule.kind != "fraction"],
        ns=list(axes.ns),
        axes={name: dict(fields) for name, fields in axes.axes.items()},
        skip_unmet=axes.skip_unmet,
        resamples=axes.resamples,
        seed=config.seed,
        baseline=axes.baseline,
        margin=axes.margin,
        usd_judge=axes.usd_judge,
        make_engine=make_engine(config),
        steps=step_times(config),
        distributed=instantiated(config.distributed),
        watchers=_callbacks(config, "sweep"),
        generator=generator_sizes(config),
        shown=config.report.questions,
    )
    return sweep if axes.networks.questions is None else replace(sweep, networks=_few(sweep, axes))


def _few(sweep: Sweep, axes: Any) -> Sweep:
    """Return the sweep of ``sweep.networks``: the first policy with a judge, on few questions."""
    if sweep.baseline != CONSENSUS:
        raise InputError(
            f"sweep.networks compares with consensus alone, got sweep.baseline={sweep.baseline}: "
            "leave one of the two out."
        )
    few = axes.networks
    policies = dict([(n, p) for n, p in sweep.policies.items() if Need.JUDGE in p.needs][:1])
    rules = sweep.prefixes[:1]
    return replace(
        sweep,
        choose=partial(
            select_questions,
            n_questions=few.questions,
            n_traces=axes.traces,
            skip_short=False,
            seed=sweep.seed,
        ),
        policies=policies,
        thresholds=list(few.thresholds),
        prefixes=[_replaced(rule, k) for rule in rules for k in few.prefix_lens],
        axes={name: fields for name, fields in sweep.axes.items() if name in policies},
        resamples=few.resamples,
    )


def _policies(config: DictConfig, rule: PrefixRule) -> dict[str, Policy]:
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
    return policies


def _prefix_rule(config: DictConfig) -> PrefixRule:
    rule: PrefixRule = instantiated(config.prefix)
    return rule


def _replaced(rule: Any, k: float) -> PrefixRule:
    whole = type(rule.k)(k)
    if whole != k:
        raise InputError(f"sweep.prefix_lens of {rule.kind} are whole numbers, got {k:g}.")
    with inputs_of("sweep.prefix_lens"):
        changed: PrefixRule = replace(rule, k=whole)
    return changed


def _listed(names: Any) -> list[str] | None:
    return None if names is None else list(names)


def generator_sizes(config: DictConfig) -> Callable[[str], GeneratorSize]:
    """Return the sizes of generators: the one of ``generator``, else by name."""
    if config.generator is not None:
        try:
            given = GeneratorSize(**config.generator)
        except TypeError as error:
            raise InputError(f"generator needs params, layers and hidden: {error}.") from error
        return lambda model: given
    known = {str(name): instantiated(size) for name, size in config.generators.items()}
    return lambda model: generator_size(model, known)


def step_times(config: DictConfig) -> StepTimes:
    """Return the step times of ``engine.steps``: a preset of ``steps``, or those of a file.

    Raises:
        InputError: If it is neither.
    """
    name = config.engine.steps
    try:
        times: Any = config.steps[name] if name in config.steps else OmegaConf.load(name)
        return StepTimes(**times, name=name)
    except (OSError, TypeError, ValueError, YAMLError) as error:
        raise InputError(
            f"engine.steps must be one of {', '.join(map(str, config.steps))}, or a file that "
            f"deepprune doctor --engine has written, got {name!r}: {error}."
        ) from error


def make_engine(config: DictConfig) -> MakeEngine:
    """Return the maker of the replay engine.

    Raises:
        InputError: If the engine generates traces instead, or its step times are not known.
    """
    if config.engine._target_ != REPLAY:
        raise InputError(
            "a sweep runs on recorded traces, engine=replay: record some with deepprune collect, "
            "or prune live with deepprune prune."
        )
    deferred = instantiated(config.engine)
    # not through `instantiate`, which makes a configuration of a dataclass; and a plain partial,
    # because to unpickle one of Hydra's every process would import Hydra
    made: MakeEngine = partial(deferred.func, **{**deferred.keywords, "steps": step_times(config)})
    with inputs_of("engine"):
        made(QuestionTraces(Question("", "", ""), "", ()), 0)
    return made


def _learner(model: DictConfig) -> Learner:
    """Return a judge to train; its constructor checks its settings."""
    settings = {name: value for name, value in model.items() if name not in TRAINED_WITH}
    return Learner(
        instantiated(settings), instantiated(model.optimizer), model.scheduler, model.warmup
    )


def _answer_style(config: DictConfig) -> dict[str, str]:
    """Return how traces state their answers, by data set."""
    styles = {str(name): str(style) for name, style in config.data.answer_style.items()}
    for name, style in styles.items():
        if style not in list(AnswerStyle):
            raise InputError(
                f"data.answer_style.{name} must be one of {', '.join(AnswerStyle)}, got {style!r}."
            )
    return styles


def _splits(config: DictConfig, store: TraceStore) -> Splits:
    """Read the traces; return training, validation and test questions."""
    data = config.data
    if min(data.fractions) <= 0:
        raise InputError(
            "data.fractions must all be above 0: validation chooses the weights and calibrates, "
            f"the test is reported; got {list(data.fractions)}."
        )
    groups = store.load(models=_listed(data.models), datasets=_listed(data.datasets))
    with inputs_of("data"):
        return split_questions(
            groups,
            list(data.fractions),
            holdout_models=list(data.holdout_models),
            fold=data.fold,
            seed=data.split_seed,
        )


def _devices(config: DictConfig) -> Any:
    """Return ``trainer.devices``, 1 for ``auto`` in a multirun.

    Lightning starts its other processes with the command line of the first one, so that each would
    begin the multirun anew.
    """
    devices = config.trainer.devices
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return devices
    if devices not in ("auto", 1):
        raise InputError(
            f"trainer.devices must be 1 in a multirun, got {devices}: its processes would each "
            "begin the multirun anew. Train on several devices in single runs."
        )
    return 1


def _trainer(
    config: DictConfig, devices: Any, folder: Path, loggers: list[Any], callbacks: list[Any]
) -> Any:
    """Make Lightning's Trainer, with the configured callbacks before ``callbacks``."""
    from pytorch_lightning.callbacks import Checkpoint, ProgressBar

    configured = _callbacks(config, "training")
    has_checkpoints = any(isinstance(c, Checkpoint) for c in configured)
    precision = config.trainer.precision
    return instantiated(
        config.trainer,
        devices=devices,
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
    """Return bfloat16 where the hardware has it: emulated, it is slower than float32."""
    import torch

    from deepprune.judge.network.cross_encoder import has_fast_bfloat16

    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if has_fast_bfloat16("cuda" if on_gpu else "cpu") else "32-true"


def _callbacks(config: DictConfig, part: str) -> list[Any]:
    """Make the callbacks of a part; one that is ``null`` is switched off."""
    nodes = (config.callbacks.get(part) or {}).values()
    return [instantiated(node) for node in nodes if node is not None]


def _exports(config: DictConfig) -> dict[str, Path]:
    """Return the exports of a report by short names, no two alike; an export or its run is named.

    Raises:
        InputError: If there are none, a folder is neither, or a backbone is missing.
    """
    folders = [export_folder(path) or Path(path) for path in config.judges]
    if not folders or len(set(folders)) < len(folders):
        raise InputError(
            f"judge-report needs one judge or more, each once, got {list(config.judges)}: give the "
            "folders that train.py exported, as in deepprune judge-report runs/DIR traces=pool."
        )
    records = [find_backbone(folder, read_record(folder)) for folder in folders]
    names = [r.name if r.seen_questions else f"{r.name}{UNKNOWN}" for r in records]
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


def _export_rule(config: DictConfig, export: Path) -> PrefixRule:
    """Return the prefixes to report a judge on: the configured ones, else those of its training.

    Raises:
        InputError: If neither is known.
    """
    if config.prefix is not None:
        return _prefix_rule(config)
    if (rule := read_record(export).prefix_rule) is None:
        raise InputError(
            f"the judge in {export} does not say on which prefixes it was trained: give them, as "
            "prefix=first_tokens prefix.k=500."
        )
    return rule


def _report_cells(config: DictConfig, stores: Mapping[str, TraceStore]) -> dict[str, list[Cell]]:
    """Return which traces of each store are paired, among the configured models and data sets.

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
