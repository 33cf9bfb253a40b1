"""The two ways in which ``train.py`` fits a judge; both end in an export."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from deepprune.commands.run import Run, is_rank_zero
from deepprune.config import build
from deepprune.data.pairs import same_share
from deepprune.data.splits import Splits
from deepprune.judge.base import Judge
from deepprune.judge.boosting import Boosting
from deepprune.judge.cascade import Cascade, CascadeJudge
from deepprune.judge.features.forced_answers import LogisticRegression, ProbeJudge
from deepprune.judge.features.overlaps import FeaturesJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.trained import TrainedJudge


def fit(
    config: DictConfig,
    parts: build.FitParts,
    splits: Splits,
    run: Run,
    export: Path,
    after_training: Callable[[Judge], None],
) -> None:
    """Fit, export into the folder ``export``, and hand what is read back to ``after_training``.

    What is measured is what a user would load later, not the model in memory.
    """
    if isinstance(parts.learner, build.Network):
        _fit_network(config, parts, parts.learner, splits, run, export, after_training)
    elif is_rank_zero():
        _fit_small(config, parts, splits, export)
        after_training(load_judge(export))


def _fit_small(config: DictConfig, parts: build.FitParts, splits: Splits, export: Path) -> None:
    """Fit what needs no Lightning, calibrate it on the validation pairs; nothing to resume."""
    learner, seen = parts.learner, splits.seen_questions()
    val = build.part_pairs(config, parts, splits, "val")
    judge: TrainedJudge
    if isinstance(learner, Cascade):
        pairs = val
        judge = CascadeJudge.fit(val, learner, seen_questions=seen)
        print(judge.said(val))
    else:
        pairs = build.part_pairs(config, parts, splits, "train")
        if isinstance(learner, Boosting):
            judge = FeaturesJudge.fit(pairs, learner, seed=config.seed, seen_questions=seen)
        else:
            assert isinstance(learner, LogisticRegression)
            judge = ProbeJudge.fit(pairs, learner, seen_questions=seen)
    judge.calibrate(val, parts.calibration, same_share=_same_share(config, splits))
    judge.export(
        export,
        prefix_rule=parts.rule,
        training={**asdict(learner), "seed": config.seed, "pairs": len(pairs)},
    )


def _fit_network(
    config: DictConfig,
    parts: build.FitParts,
    network: build.Network,
    splits: Splits,
    run: Run,
    export: Path,
    after_training: Callable[[Judge], None],
) -> None:
    import pytorch_lightning as pl  # here: the other judges need neither Lightning nor torch

    from deepprune.callbacks.export_judge import ExportJudge
    from deepprune.callbacks.prune_sweep import PruneSweep
    from deepprune.callbacks.resume_point import LAST
    from deepprune.report.metrics_file import MetricsFile

    _quieten()
    pl.seed_everything(config.seed, verbose=False)
    data = build.datamodule(config, parts, network, splits)
    data.setup("fit")  # bad data stops here, before any weights are read
    facts = data.facts("train")
    if is_rank_zero():
        print(_said(facts, config))
    module = build.module(config, network, data)
    loggers: list[Any] = [MetricsFile(run.folder)]
    if run.wandb is not None:
        from pytorch_lightning.loggers import WandbLogger

        loggers.append(WandbLogger(experiment=run.wandb))
    exporter = ExportJudge(
        export,
        network.architecture,
        data,
        calibration=parts.calibration,
        same_share=_same_share(config, splits),
    )
    sweep = PruneSweep(export, after_training)
    trainer = build.trainer(config, run.folder, loggers, [exporter, sweep])
    for logger in loggers:
        logger.log_metrics({f"data/train/{name}": n for name, n in facts.items()}, step=0)
    last = run.folder / LAST
    if last.exists():
        print(f"going on from {last}")
    try:
        trainer.fit(
            module,
            datamodule=data,
            ckpt_path=str(last) if last.exists() else None,
            weights_only=True,
        )
    except SystemExit as error:  # Lightning's answer to an interrupt
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _same_share(config: DictConfig, splits: Splits) -> float:
    """The share of "same" among the pairs of all questions that were seen, for the calibration."""
    return same_share([*splits.train, *splits.val], config.data.eval_pairs_per_question)


def _said(facts: dict[str, int], config: DictConfig) -> str:
    """What a user should know of the training pairs, in a line or several."""
    said = f"{facts['pairs']} training pairs"
    if facts["truncated"]:
        said += (
            f"\n{facts['truncated']} are longer than the model's max_length: the judge reads the "
            "end of their prefixes"
        )
    if config.data.soft_labels:
        said += f"\n{facts['soft']} have a soft label that is neither 0 nor 1"
    return said


def _quieten() -> None:
    """Leave out what Lightning says of every small run; warnings of substance stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
