"""The LightningModule: loss, optimiser, validation metrics, checkpoints of what is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from transformers import get_scheduler

from deepprune.core.errors import InputError
from deepprune.core.seeding import derive
from deepprune.data.loader import PairBatch
from deepprune.judge.measure.metrics import judge_metrics
from deepprune.judge.network.backbones import shard

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]

_log = logging.getLogger(__name__)


class JudgeModule(pl.LightningModule):
    """Trains a pair classifier and measures it on validation pairs.

    Logs ``judge/train_loss``, ``judge/val_loss`` and all of ``judge_metrics``, on all pairs
    (``judge/val_auroc``) and on those of which neither prefix is finished
    (``judge/val_auroc_unfinished``). Checkpoints are chosen by
    ``judge/val_auroc_within_unfinished``. It is ``nan`` where no question has unfinished pairs of
    both classes; that is logged as a warning, and ``ModelCheckpoint`` ranks ``nan`` below all
    numbers (``EarlyStopping`` needs ``check_finite=False``).

    A checkpoint holds what is trained, not the frozen part of a backbone, and ``val_logits``.
    Before each training batch torch's generator is seeded by seed, step, rank and batch, so that a
    resumed run draws the same dropout as an uninterrupted one.

    Args:
        model: Maps model inputs to logits ``(B,)``; or a function that builds it, which is then
            called under the strategy (sharded strategies build large models so).
        loss: Scalar loss of logits, labels and groups, see ``judge.network.losses``.
        optimizer: Makes the optimiser of the trainable parameters.
        scheduler: Shape of the learning rate after the warm-up, ``linear`` or ``cosine`` (see
            ``transformers.get_scheduler``); ``None`` for a constant rate without warm-up.
        warmup: Share of the optimiser steps over which the rate rises from 0, in [0, 1).
        seed: Decides dropout.

    Attributes:
        val_logits: Logits of the validation pairs with the present weights, shape ``(P,)``;
            ``None`` where these have not been validated.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        loss: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: str | None = None,
        *,
        warmup: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model: nn.Module | None = model if isinstance(model, nn.Module) else None
        self._build_model = None if isinstance(model, nn.Module) else model
        self.loss = loss
        self._make_optimizer = optimizer
        self._scheduler, self._warmup = scheduler, warmup
        self._seed = seed
        self.strict_loading = False  # frozen weights are not in a checkpoint
        self._steps: list[dict[str, Tensor]] = []
        self.val_logits: Tensor | None = None

    def configure_model(self) -> None:
        """Build the model, where a function was given; shard it where the strategy wants that."""
        if self.model is None:
            assert self._build_model is not None
            self.model = self._build_model()
            if self.device_mesh is not None:
                shard(self.model, self.device_mesh["data_parallel"])
        self.model.train()  # `from_pretrained` hands out models in evaluation mode

    def forward(self, **inputs: Tensor) -> Tensor:
        assert self.model is not None, "configure_model has not run"
        logits: Tensor = self.model(**inputs)
        return logits.float()

    def configure_optimizers(self) -> Any:
        """Make the optimiser of the trainable parameters; its schedule steps with every step."""
        optimizer = self._make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        n_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = get_scheduler(
            self._scheduler, optimizer, math.ceil(self._warmup * n_steps), n_steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_batch_start(self, batch: PairBatch, batch_idx: int) -> None:
        self.val_logits = None
        place = self.global_step, self.global_rank, batch_idx
        torch.manual_seed(derive(self._seed, "batch", *place) % 2**63)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        logits = self(**batch["inputs"])
        loss: Tensor = self.loss(logits, batch["labels"], batch["meta"]["group"])
        self.log("judge/train_loss", loss, prog_bar=True, batch_size=len(batch["labels"]))
        return loss

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        kept = {"logits": self(**batch["inputs"]), "labels": batch["labels"], **batch["meta"]}
        self._steps.append({name: value.detach().cpu() for name, value in kept.items()})

    def on_validation_epoch_start(self) -> None:
        """Drop the outputs of an interrupted validation."""
        self._steps.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all ranks' outputs.

        Raises:
            InputError: If a logit is NaN.
        """
        outputs = _gathered(self._steps)
        self._steps.clear()
        if outputs is None:
            return
        logits, labels, group = (outputs[name] for name in ("logits", "labels", "group"))
        if n := np.count_nonzero(np.isnan(logits)):
            raise InputError(
                f"{type(self.model).__name__} gives NaN for {n} of {len(logits)} validation pairs: "
                "its training has diverged. Lower model.optimizer.lr or set "
                "trainer.gradient_clip_val."
            )
        self.val_logits = torch.from_numpy(logits)
        with torch.no_grad():
            values = {"loss": float(self.loss(*map(torch.from_numpy, (logits, labels, group))))}
        scores, unfinished = expit(logits.astype(np.float64)), outputs["is_unfinished"]
        for rows, suffix in ((np.ones_like(unfinished), ""), (unfinished, "_unfinished")):
            found = judge_metrics(scores[rows], labels[rows], group[rows])
            values |= {f"{name}{suffix}": value for name, value in found.items()}
        if np.isnan(values["auroc_within_unfinished"]) and not self.trainer.sanity_checking:
            _log.warning(
                "judge/val_auroc_within_unfinished is undefined (nan): no question has unfinished "
                "pairs of both classes. Take shorter prefixes or more questions."
            )
        # All ranks have gathered the same outputs, so the mean over ranks is each one's value.
        logged = {f"judge/val_{name}": value for name, value in values.items()}
        self.log_dict(logged, sync_dist=True, batch_size=len(labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k not in frozen}
        checkpoint["val_logits"] = self.val_logits

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model.

        Raises:
            ValueError: If what is trained here and what was trained there differ.
        """
        if "state_dict" not in checkpoint:  # a sharding strategy has loaded and checked it
            return
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        saved = set(checkpoint["state_dict"])
        if missing := sorted(trained - saved) or sorted(saved - set(self.state_dict())):
            raise ValueError(
                f"the checkpoint must be of the same model and adapters; {len(missing)} weights "
                f"differ, first {missing[0]!r}. Resume with the configuration of the first run."
            )


def _gathered(steps: list[dict[str, Tensor]]) -> dict[str, NDArray[Any]] | None:
    """Collect the outputs of all ranks, a row for each pair, without those that fill batches up."""
    names = steps[0] if steps else ()
    mine = {name: torch.cat([step[name] for step in steps]).numpy() for name in names}
    ranks = [mine]
    if distributed.is_available() and distributed.is_initialized():
        ranks = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(ranks, mine)
    ranks = [rank for rank in ranks if rank]
    if not ranks:
        return None
    both = {name: np.concatenate([rank[name] for rank in ranks]) for name in ranks[0]}
    _, first = np.unique(both["pair"], return_index=True)
    return {name: value[first] for name, value in both.items()}
