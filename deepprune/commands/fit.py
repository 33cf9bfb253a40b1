"""Train a judge through Lightning and export it, for ``train.py``."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from deepprune.commands.run import Run, is_rank_zero
from deepprune.config import build
from deepprune.data.pairs import same_share
from deepprune.data.splits import Splits


def fit(config: DictConfig, parts: build.FitParts, splits: Splits, run: Run, export: Path) -> None:
    """Fit, calibrate, and export into the folder ``export``; resume where ``run`` was killed."""
    import pytorch_lightning as pl  # slow to import: bad options stop before

    from deepprune.callbacks.export_judge import ExportJudge
    from deepprune.callbacks.resume_point import LAST
    from deepprune.report.metrics_file import MetricsFile

    _quieten()
    pl.seed_everything(config.seed, verbose=False)
    data = build.datamodule(config, parts, splits)
    data.setup("fit")  # bad data stops here, before any weights are read
    train = data.encoded("train")
    facts = {"pairs": len(train), "truncated": int(train.inputs.is_truncated.sum())}
    if is_rank_zero():
        print(_summary(facts))
    module = build.module(config, parts, data)
    loggers: list[Any] = [MetricsFile(run.folder)]
    if run.wandb is not None:
        from pytorch_lightning.loggers import WandbLogger

        loggers.append(WandbLogger(experiment=run.wandb))
    exporter = ExportJudge(
        export,
        parts.architecture,
        data,
        calibration=parts.calibration,
        same_share=_same_share(config, splits),
    )
    trainer = build.trainer(config, run.folder, loggers, [exporter])
    for logger in loggers:
        logger.log_metrics({f"data/train/{name}": n for name, n in facts.items()}, step=0)
    last = run.folder / LAST
    if last.exists():
        print(f"resuming from {last}")
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
    """Share of "same" among the pairs of all training and validation questions."""
    return same_share([*splits.train, *splits.val], config.data.eval_pairs_per_question)


def _summary(facts: dict[str, int]) -> str:
    """Number of training pairs, and how many the model's window cuts."""
    told = f"{facts['pairs']} training pairs"
    if facts["truncated"]:
        told += (
            f"\n{facts['truncated']} are longer than the model's max_length: the judge reads the "
            "end of their prefixes"
        )
    return told


def _quieten() -> None:
    """Silence what Lightning prints in every small run; other warnings stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
