"""Lightning callback: calibrate and export the best weights after the fit."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from deepprune.data.datamodule import JudgeDataModule
from deepprune.judge.network.architecture import Architecture


class ExportJudge(pl.Callback):
    """Writes the folder that ``load_judge`` reads, from rank 0.

    Exports the best checkpoint of a ``ModelCheckpoint`` with a monitored metric, else the last
    weights. The calibration (``platt`` or ``none``) is fitted on the validation pairs, with the
    share of "same" among the pairs of all seen questions (``judge.calibration.fit_calibration``).
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
        best = _best_checkpoint(trainer)
        if best is not None:
            state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        model = self._architecture.build()
        trained = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model.load_state_dict(trained, strict=False)  # a checkpoint has no frozen weights
        judge = self._architecture.judge(model, self._data.splits.seen_questions())
        if self._data.splits.val and self._calibration == "platt":
            judge.calibrate(self._data.pairs("val"), same_share=self._same_share)
        judge.export(
            self._folder,
            prefix_rule=self._data.rule,
            training={"steps": trainer.global_step, "epochs": trainer.current_epoch},
        )


def _best_checkpoint(trainer: pl.Trainer) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return callback.best_model_path
    return None
