"""Lightning callback: the checkpoint from which a killed training resumes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

LAST = Path("checkpoints") / "last.ckpt"


class ResumePoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` in the run folder, atomically.

    Saves every ``every_n_train_steps`` optimiser steps and after every epoch, but never between a
    batch and the validation that follows it: a training resumed from there would skip the
    validation and could choose another best checkpoint. ``ModelCheckpoint(save_last=True)`` does
    not serve: it writes only beside another checkpoint.

    Args:
        every_n_train_steps: Maximum number of optimiser steps lost by a kill, >= 1.

    Raises:
        ValueError: If ``every_n_train_steps`` is below 1.
    """

    def __init__(self, every_n_train_steps: int = 25) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be >= 1, got {every_n_train_steps}.")
        self._every = every_n_train_steps
        self._step, self._is_due = 0, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """Save at the interval, after a batch that ends a step and that no validation follows."""
        is_step = trainer.global_step != self._step  # accumulated gradients are in no checkpoint
        self._step = trainer.global_step
        self._is_due |= is_step and self._step % self._every == 0
        validates = (i + 1) % (trainer.val_check_batch or 1) == 0  # infinite without validation
        if self._is_due and is_step and not validates:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._is_due = False
        path = Path(trainer.default_root_dir) / LAST
        written = path.with_name("last.ckpt.tmp")
        trainer.save_checkpoint(written)
        if trainer.is_global_zero:
            if path.is_dir():  # sharded strategies save a folder
                shutil.rmtree(path)
            os.replace(written, path)
