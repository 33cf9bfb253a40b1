"""Typed plans of the commands; `build` and `build_live` make them.

A plan holds what is cheap already made, so that a bad value stops before anything loads, and
functions for what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprune.core.protocols import Need, Policy
from deepprune.core.step_times import StepTimes
from deepprune.core.types import PrefixRule, Question, QuestionRef
from deepprune.data.cells import Cell
from deepprune.data.splits import Splits
from deepprune.evaluation.distributed import Distributed
from deepprune.evaluation.grid import Point, grid
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.runner import MakeEngine
from deepprune.evaluation.watcher import Watcher
from deepprune.judge.base import Judge
from deepprune.traces import TraceStore

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from deepprune.data.datamodule import SamplerFactory
    from deepprune.generation.live import LiveEngine
    from deepprune.judge.network.architecture import Architecture
    from deepprune.judge.network.module import OptimizerFactory


@dataclass(frozen=True)
class RunPlan:
    """Folder, identity and logging of a run.

    Attributes:
        command: Name of the command.
        folder: The run folder.
        identity: The resolved configuration, without options that change only how a run is logged
            or carried out: a run resumes with any value of those.
        overrides: As the user gave them.
        choices: What was chosen, by option group; the seed and the traces too.
        changed: Option -> its default and its value here, where these differ.
        logger: Name of the logger.
        logger_options: Its arguments.
        multirun: Folder of the multirun that the run is a job of, if it is.
    """

    command: str
    folder: Path
    identity: Mapping[str, Any]
    overrides: Sequence[str]
    choices: Mapping[str, Any]
    changed: Mapping[str, tuple[Any, Any]]
    logger: str
    logger_options: Mapping[str, Any]
    multirun: Path | None


@dataclass(frozen=True)
class JudgeChoice:
    """Judge that is not loaded yet.

    Attributes:
        needs: What it reads of the traces.
        load: Loads it.
        sha256: Identifies its export; ``None`` for a judge without a folder.
        seen_questions: Hashes of the questions that it was trained on.
    """

    needs: frozenset[Need]
    load: Callable[[], Judge]
    sha256: str | None = None
    seen_questions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sweep:
    """Axes of a pruning sweep (`conf/sweep/default.yaml`), and what evaluates its questions.

    Attributes:
        traces: Name of the store, as the user gave it.
        refs: What the store has of the chosen models and data sets.
        choose: Chooses the questions of the sweep among refs, and N.
        judges: Those of ``sweep.judges``, by entry.
        axes: Values by policy and field.
        make_engine: Makes the replay engine of a question's traces.
        steps: Step times of its engine.
        generator: Size of a generator by its name.
        shown: Questions that the report shows with their traces.
        networks: A smaller sweep for judges that are neural networks; ``None``: they take part in
            this one.
    """

    traces: str
    store: TraceStore
    refs: Sequence[QuestionRef]
    choose: Callable[[Sequence[QuestionRef]], tuple[list[QuestionRef], int]]
    judges: Mapping[str, JudgeChoice]
    policies: Mapping[str, Policy]
    thresholds: Sequence[float]
    prefixes: Sequence[PrefixRule]
    ns: Sequence[int]
    axes: Mapping[str, Mapping[str, Sequence[Any]]]
    skip_unmet: bool
    resamples: int
    seed: int
    baseline: str
    margin: float
    usd_judge: float | None
    make_engine: MakeEngine
    steps: StepTimes
    distributed: Distributed
    watchers: Sequence[Watcher]
    generator: Callable[[str], GeneratorSize]
    shown: int
    networks: Sweep | None = None

    @property
    def inputs(self) -> dict[str, str | None]:
        """Hashes of the traces and the judges of ``sweep.judges``, and the step times."""
        hashes: dict[str, str | None] = {
            "traces": self.store.content_hash,
            "engine.steps": str(self.steps),
        }
        return hashes | {name: judge.sha256 for name, judge in self.judges.items() if judge.sha256}

    def points(self, n_traces: int, judges: Sequence[str]) -> list[Point]:
        """Return the grid for N traces a question and judges of these names.

        Raises:
            InputError: If an N exceeds it, or an axis is no field of its policy.
        """
        return grid(
            self.policies,
            n_traces=n_traces,
            judges=judges,
            thresholds=self.thresholds,
            prefixes=self.prefixes,
            ns=self.ns,
            axes=self.axes,
        )


@dataclass(frozen=True)
class EvaluatePlan:
    """``deepprune evaluate``."""

    run: RunPlan
    sweep: Sweep
    judge: JudgeChoice


@dataclass(frozen=True)
class Learner:
    """Architecture of a judge to train, and its options of ``JudgeModule``."""

    architecture: Architecture
    optimizer: OptimizerFactory
    scheduler: str | None
    warmup: float


@dataclass(frozen=True)
class TrainPlan:
    """``train.py``: what all learners share, and the sweep that follows.

    Attributes:
        load_splits: Reads the traces and splits their questions.
        group: Candidates of a representative in training; ``None`` for ``auto``.
        split_seed: Decides the split and the reported pairs; ``seed`` decides everything else.
        learner: That of ``model=``.
        beside: Those of ``beside=``, by name.
        pairs_per_question: Limit of training pairs; ``None`` for all.
        eval_pairs_per_question: Limit of validation and test pairs; ``None`` for all.
        make_trainer: Makes a trainer of folder, loggers and further callbacks.
        sweep: ``None`` for none.
    """

    run: RunPlan
    seed: int
    store: TraceStore
    load_splits: Callable[[], Splits]
    split_seed: int
    learner: Learner
    beside: Mapping[str, Learner]
    rule: PrefixRule
    answer_style: Mapping[str, str]
    only_unfinished: bool
    pairs_per_question: int | None
    eval_pairs_per_question: int | None
    batch_size: int
    group: int | None
    loss: nn.Module
    sampler: SamplerFactory
    calibration: str
    make_trainer: Callable[[Path, list[Any], list[Any]], pl.Trainer]
    sweep: Sweep | None


@dataclass(frozen=True)
class JudgeReportPlan:
    """``deepprune judge-report``.

    Attributes:
        exports: Folders of the judges by short names.
        rules: The prefixes of each.
        stores: By the names that the user gave them.
        cells: The traces to pair, by store.
    """

    run: RunPlan
    seed: int
    exports: Mapping[str, Path]
    rules: Mapping[str, PrefixRule]
    device: str
    baselines: Mapping[str, Judge]
    stores: Mapping[str, TraceStore]
    cells: Mapping[str, Sequence[Cell]]
    leave_out_seen: bool
    words: bool
    pairs_per_question: int | None
    answer_style: Mapping[str, str]


@dataclass(frozen=True)
class CollectPlan:
    """``deepprune collect``.

    Attributes:
        engines: By name; nothing is loaded or connected before they start.
        n: Traces a question.
        provenance: Questions, prompt and engine, for the store's manifest.
    """

    run: RunPlan
    questions: Sequence[Question]
    engines: Mapping[str, LiveEngine]
    n: int
    concurrency: int
    seed: int
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class PrunePlan:
    """``deepprune prune``.

    Attributes:
        judge: ``None`` where the policy asks none.
        needs: What policy and judge read of the traces.
        engine: Generates the traces; ``None`` for a replay.
        recorded: The traces that are replayed, or that a scripted engine plays; else ``None``.
        make_replay: Makes the replay engine; ``None`` for a live engine.
        generator: Size of a generator by its name; ``None`` where nobody has given it.
    """

    run: RunPlan
    questions: Sequence[Question]
    policy: Policy
    judge: JudgeChoice | None
    needs: frozenset[Need]
    n_traces: int
    judge_timeout_s: float
    view: str
    seed: int
    engine: LiveEngine | None
    recorded: TraceStore | None
    make_replay: MakeEngine | None
    generator: Callable[[str], GeneratorSize | None]
