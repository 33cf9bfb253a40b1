"""Lightning callback: calibrate and export the best weights after the fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from deepprune.data.datamodule import JudgeDataModule
from deepprune.judge.measure.comparison import HEADLINE
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.judge.network.architecture import Architecture


class ExportJudge(pl.Callback):
    """Writes the folder that ``load_judge`` reads, from rank 0.

    Exports the best checkpoint of a ``ModelCheckpoint`` with a monitored metric, else the last
    weights. The calibration (``platt`` or ``none``) is fitted on the validation pairs, with the
    share of "same" among the pairs of all seen questions (``judge.calibration.fit_calibration``).
    The record of the export has the AUROC on them. The logits of the training's own validation
    serve for both where the judge reads each pair once, as the model does.
    The presence of ``folder`` means that the training is complete.
    """

    def __init__(
        self,
        folder: Path,
        architecture: Architecture,
        data: JudgeDataModule,
        *,
        calibration: str = "platt",
        same_share: float | None = None,
    ) -> None:
        self._folder = folder
        self._architecture = architecture
        self._data = data
        self._calibration = calibration
        self._same_share = same_share

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the weights into a new model, since a strategy may have changed ours; export it."""
        if trainer.interrupted or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        state = trainer.strategy.lightning_module_state_dict()  # gathered by all ranks
        if not trainer.is_global_zero:
            return
        known: Any = pl_module.val_logits
        if (best := _best_checkpoint(trainer)) is not None:
            checkpoint = torch.load(best, map_location="cpu", weights_only=True)
            state, known = checkpoint["state_dict"], checkpoint.get("val_logits")
        model = self._architecture.build()
        trained = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model.load_state_dict(trained, strict=False)  # a checkpoint has no frozen weights
        judge = self._architecture.judge(model, self._data.splits.seen_questions())
        training: dict[str, Any] = {"steps": trainer.global_step, "epochs": trainer.current_epoch}
        if self._data.splits.val:
            pairs = self._data.pairs("val")
            reads_once = judge.is_model and not judge.is_symmetric
            if reads_once and known is not None and len(known) == len(pairs):
                logits = known.double().numpy()
            else:
                logits = judge.logits(pairs)
            if self._calibration == "platt":
                judge.calibrate(pairs, logits=logits, same_share=self._same_share)
            auroc = PairScores.of(pairs, judge.calibration(logits)).metric(HEADLINE)
            training[HEADLINE] = None if np.isnan(auroc) else auroc
        judge.export(self._folder, prefix_rule=self._data.rule, training=training)


def _best_checkpoint(trainer: pl.Trainer) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return callback.best_model_path
    return None
