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
from deepprune.data.splits import Splits
from deepprune.judge.base import Judge
from deepprune.judge.boosting import Boosting
from deepprune.judge.features import FeaturesJudge


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
        _fit_features(config, parts, parts.learner, splits, export)
        after_training(Judge.load(export))


def _fit_features(
    config: DictConfig, parts: build.FitParts, settings: Boosting, splits: Splits, export: Path
) -> None:
    """Trees on the training pairs, calibrated on the validation pairs; nothing to resume."""
    train, val = (build.part_pairs(config, parts, splits, part) for part in ("train", "val"))
    judge = FeaturesJudge.fit(
        train, settings, seed=config.seed, seen_questions=splits.seen_questions()
    )
    judge.calibrate(val)
    judge.export(
        export,
        prefix_rule=parts.rule,
        training={**asdict(settings), "seed": config.seed, "pairs": len(train)},
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
    encoder = build.encoder(config, network.backbone)
    data = build.datamodule(config, parts, network, splits, encoder)
    data.setup("fit")  # bad data stops here, before any weights are read
    if encoder.n_truncated:
        print(
            f"{encoder.n_truncated} of {len(data.pairs('train')) + len(data.pairs('val'))} pairs "
            f"are longer than model.encoder.max_length={encoder.config.max_length} tokens: the "
            "judge reads the end of their prefixes"
        )
    module = build.module(config, network)
    loggers: list[Any] = [MetricsFile(run.folder)]
    if run.wandb is not None:
        from pytorch_lightning.loggers import WandbLogger

        loggers.append(WandbLogger(experiment=run.wandb))
    name = Path(config.model.backbone.source).name
    exporter = ExportJudge(export, encoder, network.backbone, data, name=name)
    sweep = PruneSweep(export, after_training)
    trainer = build.trainer(config, run.folder, loggers, [exporter, sweep])
    last = run.folder / LAST
    if last.exists():
        print(f"going on from {last}")
    trainer.fit(
        module,
        datamodule=data,
        ckpt_path=str(last) if last.exists() else None,
        weights_only=True,
    )


def _quieten() -> None:
    """Leave out what Lightning says of every small run; warnings of substance stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
