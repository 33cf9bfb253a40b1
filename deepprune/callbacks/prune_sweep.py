"""Lightning callback: after the fit, sweep pruning policies with the judge just trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

from deepprune.judge.base import Judge
from deepprune.judge.loading import load_judge


class PruneSweep(pl.Callback):
    """Reads the export back and hands it to ``run``, on rank 0.

    What is measured is what a user would load later, not the model in memory.

    Args:
        export: The folder that ``ExportJudge`` writes; that callback comes first.
        run: Evaluates the judge.
    """

    def __init__(self, export: Path, run: Callable[[Judge], None]) -> None:
        self.export = export
        self._run = run

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sweep."""
        if trainer.is_global_zero and self.export.exists():
            self._run(load_judge(self.export))
