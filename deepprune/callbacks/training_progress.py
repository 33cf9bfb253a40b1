"""Callback: show the progress of a training."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.callbacks import TQDMProgressBar

from deepprune.core.progress import Bar


class TrainingProgress(TQDMProgressBar):
    """Lightning's bar of an epoch as a `Bar`; validations have none."""

    def init_train_tqdm(self) -> Bar:
        return Bar(
            desc=f"Epoch {self.trainer.current_epoch}: ",
            total=self.total_train_batches,
            initial=self.trainer.fit_loop.epoch_loop.batch_progress.current.ready,  # resumed
            disable=self.is_disabled,
            smoothing=0,
        )

    def init_validation_tqdm(self) -> Bar:
        return Bar(disable=True)

    def get_metrics(self, *arguments: Any) -> dict[str, Any]:
        """Return the metrics that the bar shows, without the number of the run."""
        shown = super().get_metrics(*arguments)
        return {name.rpartition("/")[2]: x for name, x in shown.items() if name != "v_num"}
