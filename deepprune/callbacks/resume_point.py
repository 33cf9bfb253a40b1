"""Lightning callback: where a killed training goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

LAST = Path("checkpoints") / "last.ckpt"


class ResumePoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt`` of the run folder, whole at any moment.

    It is written after every so many optimiser steps and after every epoch, but never between a
    batch and the validation that is due after it: a training resumed from there would not validate,
    and could choose another best checkpoint than an uninterrupted one.

    Args:
        every_n_train_steps: Optimiser steps that a kill can cost, >= 1.

    Raises:
        ValueError: If ``every_n_train_steps`` is below 1.
    """

    def __init__(self, every_n_train_steps: int = 25) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be >= 1, got {every_n_train_steps}.")
        self._every = every_n_train_steps
        self._saved_at = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """Save where the step is due and no validation is."""
        step = trainer.global_step
        is_new = step != self._saved_at  # of the batches that one step accumulates, the last
        due = trainer.val_check_batch or 1  # batches; infinite without validation
        if is_new and step % self._every == 0 and (i + 1) % due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, the validation included."""
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._saved_at = trainer.global_step
        path = Path(trainer.default_root_dir) / LAST
        written = path.with_name("last.ckpt.tmp")
        trainer.save_checkpoint(written)
        if trainer.is_global_zero:
            if path.is_dir():  # of a sharded strategy
                shutil.rmtree(path)
            os.replace(written, path)
