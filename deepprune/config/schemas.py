"""Types and ranges of every option, and the check of a composed configuration.

A misspelt key or a wrong type stops at composition, a value out of range right after it: neither
imports torch, transformers or Lightning. What has a constructor is in `options_table.py`, which
`config.generate` writes; here is the rest. Fields without a value (`MISSING`) get theirs from
`conf/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from deepprune.config.options_table import TABLE
from deepprune.core.errors import InputError
from deepprune.core.options import Count, Ge, Gt, Le, Lt, Share, check, choices, parts

RULES: dict[type, Mapping[str, Any]] = {}
"""The annotations of each schema's options."""

PARTIAL = ("sampler/", "engine/replay")
"""Constructors that get further arguments from code."""

PLAIN = ("model/encoder", "live/", "steps/")
"""Options that code passes on; the node has no `_target_`."""


@dataclass
class LearnerConf:
    """Options of the optimisation, in the node of each architecture."""

    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: Annotated[str, Literal["linear", "cosine"]] | None = None
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.0


LEARNERS = ("model/linear", "model/cross_encoder")


def _schema(key: str) -> type:
    """Make the dataclass of a choice from its row of the table."""
    bases = (LearnerConf,) if key in LEARNERS else ()
    target, options = TABLE[key]
    fields: list[Any] = []
    if not key.startswith(PLAIN):
        fields.append(("_target_", str, target))
        if key.startswith(PARTIAL):
            fields.append(("_partial_", bool, True))
        if any(isinstance(default, list | dict) for _, default in options.values()):
            fields.append(("_convert_", str, "all"))
    for name, (annotation, default) in options.items():
        kind, made = _omega(annotation), field(default=default)
        if default == {} and isinstance(kind, type):
            made = field(default_factory=kind)
        elif isinstance(default, list | dict):
            made = field(default_factory=partial(type(default), default))
        fields.append((name, kind, made))
    name = "".join(word.capitalize() for word in key.replace("/", "_").split("_"))
    schema = make_dataclass(name, fields, bases=bases, namespace={"__module__": __name__})
    globals()[name] = schema  # a launcher pickles the configuration
    inherited = get_type_hints(LearnerConf, include_extras=True) if bases else {}
    RULES[schema] = {**inherited, **{name: kind for name, (kind, _) in options.items()}}
    return schema


def _omega(annotation: Any) -> Any:
    """Return the type that OmegaConf checks: without bounds, choices as texts."""
    kind, _, is_optional = parts(annotation)
    if get_origin(annotation) is Annotated and isinstance(get_args(annotation)[1], str):
        kind = SCHEMAS[get_args(annotation)[1]]
    elif is_optional and kind is Any:
        (inner,) = (a for a in get_args(annotation) if a is not type(None))
        kind = _omega(inner)
    elif choices(kind):
        kind = str
    elif get_origin(kind) is list:
        kind = list[_omega(get_args(kind)[0])]  # type: ignore[misc]
    return kind | None if is_optional else kind


SCHEMAS: dict[str, type] = {}
for _key in TABLE:
    SCHEMAS[_key] = _schema(_key)


GeneratorsSize: Any = SCHEMAS["generators/size"]
StepsStepTimes: Any = SCHEMAS["steps/step_times"]
Seed = Annotated[int, Ge(0), Le(4294967295)]  # what Lightning, torch and NumPy all take


Baseline = Annotated[str, Literal["question_only", "length_only", "lexical", "sentence_embedding"]]


@dataclass
class SelectionConf:
    models: list[str] | None = None
    datasets: list[str] | None = None


@dataclass
class PairsConf(SelectionConf):
    eval_pairs_per_question: Count | None = MISSING
    answer_style: dict[str, str] = MISSING


@dataclass
class DataConf(PairsConf):
    fractions: list[Share] = MISSING
    split_seed: Seed = MISSING
    fold: Annotated[int, Ge(0)] = MISSING
    holdout_models: list[str] = MISSING
    pairs_per_question: Count | None = MISSING
    only_unfinished: bool = MISSING
    batch_size: Count = MISSING
    group: Any = MISSING


@dataclass
class NetworksConf:
    questions: Count | None = MISSING
    resamples: Count = MISSING
    thresholds: list[Share] = MISSING
    prefix_lens: list[float] = MISSING


@dataclass
class SweepConf:
    thresholds: list[Share] = MISSING
    prefix_lens: list[float] = MISSING
    ns: list[int] = MISSING
    axes: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    judges: list[str] = field(default_factory=list)
    skip_unmet: bool = False
    baseline: str = MISSING
    margin: Annotated[float, Gt(0), Lt(1)] = MISSING
    usd_judge: float | None = None
    questions: Annotated[int, Ge(0)] | None = None
    traces: int | None = None
    resamples: Count = MISSING
    networks: NetworksConf = field(default_factory=NetworksConf)
    skip_short: bool = MISSING


@dataclass
class WandbConf:
    project: str | None = MISSING
    entity: str | None = None
    mode: Annotated[str, Literal["offline", "online", "disabled"]] = MISSING
    preemptible: bool = MISSING


@dataclass
class ReportConf:
    questions: Annotated[int, Ge(0)] = MISSING


@dataclass
class SweepingConf:
    """Options that `train` and `evaluate` share."""

    traces: str = MISSING
    seed: Seed = MISSING
    prefix: Any = MISSING
    pruning: dict[str, Any] = field(default_factory=dict)
    sweep: SweepConf = field(default_factory=SweepConf)
    report: ReportConf = field(default_factory=ReportConf)
    engine: Any = MISSING
    distributed: Any = MISSING
    generators: dict[str, GeneratorsSize] = field(default_factory=dict)
    steps: dict[str, StepsStepTimes] = field(default_factory=dict)
    generator: Any = None
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: Any = None


@dataclass
class EvaluateConf(SweepingConf):
    data: SelectionConf = field(default_factory=SelectionConf)
    judge: Any = MISSING


@dataclass
class TrainConf(SweepingConf):
    data: DataConf = field(default_factory=DataConf)
    model: Any = MISSING
    beside: dict[str, Any] = field(default_factory=dict)
    loss: Any = MISSING
    sampler: Any = MISSING
    trainer: Any = MISSING
    calibration: Annotated[str, Literal["platt", "none"]] = MISSING


@dataclass
class CollectingConf:
    n: Count = MISSING
    concurrency: Count = MISSING
    replicas: list[str] | None = None


@dataclass
class CollectConf:
    questions: Any = MISSING
    engine: Any = MISSING
    prompt: Any = field(default_factory=SCHEMAS["prompt/prompt"])
    sampling: Any = field(default_factory=SCHEMAS["sampling/sampling"])
    live: Any = field(default_factory=SCHEMAS["live/live"])
    collect: CollectingConf = field(default_factory=CollectingConf)
    seed: Seed = MISSING
    logger: Any = None


@dataclass
class JudgeReportConf:
    traces: list[str] = MISSING
    judges: list[str] = MISSING
    baselines: list[Baseline] = MISSING
    pairs: Annotated[str, Literal["auto", "within_model", "cross_model"]] = MISSING
    leave_out_seen: bool = MISSING
    words: bool = MISSING
    device: str = MISSING
    seed: Seed = MISSING
    data: PairsConf = field(default_factory=PairsConf)
    prefix: Any = None
    logger: Any = None


@dataclass
class PruneQuestionConf:
    traces: Annotated[int, Ge(2)] = MISSING
    judge_timeout_s: Annotated[float, Gt(0)] = MISSING


@dataclass
class PruneConf:
    traces: str = MISSING
    question: str | None = None
    questions: Any = None
    engine: Any = MISSING
    prompt: Any = field(default_factory=SCHEMAS["prompt/prompt"])
    sampling: Any = field(default_factory=SCHEMAS["sampling/sampling"])
    live: Any = field(default_factory=SCHEMAS["live/live"])
    prefix: Any = MISSING
    pruning: dict[str, Any] = field(default_factory=dict)
    threshold: Share | None = None
    judge: Any = MISSING
    prune: PruneQuestionConf = field(default_factory=PruneQuestionConf)
    view: Annotated[str, Literal["live", "json", "none"]] = MISSING
    seed: Seed = MISSING
    generators: dict[str, GeneratorsSize] = field(default_factory=dict)
    steps: dict[str, StepsStepTimes] = field(default_factory=dict)
    generator: Any = None
    logger: Any = None


COMMANDS = {
    "train": TrainConf,
    "evaluate": EvaluateConf,
    "judge_report": JudgeReportConf,
    "collect": CollectConf,
    "prune": PruneConf,
}
GROUPS = {
    "data/data": DataConf,
    "sweep/sweep": SweepConf,
    "logger/wandb": WandbConf,
}
"""Choices without a row in the table."""

for _schema_class in (
    *COMMANDS.values(),
    *GROUPS.values(),
    CollectingConf,
    NetworksConf,
    PairsConf,
    PruneQuestionConf,
    ReportConf,
):
    RULES[_schema_class] = get_type_hints(_schema_class, include_extras=True)


def register() -> None:
    """Make the schemas known to Hydra as ``base_NAME``, each in its group."""
    store = ConfigStore.instance()
    for name, schema in COMMANDS.items():
        store.store(name=f"base_{name}", node=schema)
    for key, schema in {**SCHEMAS, **GROUPS}.items():
        group, name = key.split("/")
        # a policy adds itself, so that several can be chosen
        package = f"pruning.{name}" if group == "pruning" else None
        store.store(group=group, name=f"base_{name}", node=schema, package=package)


def check_ranges(config: DictConfig, prefix: str = "") -> None:
    """Check every option of a composed configuration against its range and choices.

    Raises:
        InputError: If a value is out of range or none of the choices; it names the option.
    """
    rules = RULES.get(OmegaConf.get_type(config) or dict, {})
    for key in map(str, config):
        if OmegaConf.is_missing(config, key):
            continue
        value, is_copy = config[key], OmegaConf.is_interpolation(config, key)
        if isinstance(value, DictConfig):
            if not is_copy:
                check_ranges(value, f"{prefix}{key}.")
        elif key in rules:
            value = list(value) if isinstance(value, ListConfig) else value
            try:
                check(f"{prefix}{key}", rules[key], value)
            except ValueError as error:
                raise InputError(f"{error}.") from None
