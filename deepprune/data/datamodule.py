"""The LightningDataModule: splits, prefixes, pairs and samplers in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from deepprune.core.protocols import IntArray
from deepprune.core.types import PrefixRule, TracePair
from deepprune.data.loader import EncodedPairs, PairEncoding, PairLoader
from deepprune.data.pairs import build_part
from deepprune.data.samplers import (
    BatchState,
    BucketBatchSampler,
    NaturalSampler,
    OrderedSampler,
    PairSampler,
)
from deepprune.data.splits import Splits, check_disjoint

SamplerFactory = Callable[[IntArray, IntArray, int], PairSampler]
"""Makes the training sampler of labels, groups and a seed; a sampler class is one."""


class JudgeDataModule(pl.LightningDataModule):
    """Token batches of labelled pairs for training and validation.

    Samplers know their rank, and Lightning does not split a ``PairLoader``. The train loader's
    place in its epoch is part of a checkpoint: a run resumed in mid-epoch sees exactly the
    remaining batches. Resume with as many ranks as before.

    Args:
        splits: Groups of traces for each part.
        rule: Where prefixes end.
        encoding: How pairs become model inputs.
        sampler: Makes the training sampler, e.g. ``functools.partial(OversampleSampler, ratio=2)``.
        batch_size: Pairs of a batch on each rank.
        group: Candidates of a representative that are drawn and read together, see `build_pairs`
            and ``PairSampler.keep_together``; a divisor of ``batch_size``.
        pairs_per_question: At most so many training pairs of a group; ``None`` for all.
        eval_pairs_per_question: The same for validation.
        only_unfinished: Train only on pairs of which neither prefix has reached its answer.
            Validation keeps all pairs, and marks them.
        answer_style: How a trace states its answer, see ``build_pairs``.
        seed: Decides the sample of pairs, their orientation and their order.

    Raises:
        InputError: If a question, or a near-duplicate of it, is in two parts.
    """

    def __init__(
        self,
        splits: Splits,
        rule: PrefixRule,
        encoding: PairEncoding,
        sampler: SamplerFactory = NaturalSampler,
        *,
        batch_size: int = 16,
        group: int = 1,
        pairs_per_question: int | None = None,
        eval_pairs_per_question: int | None = None,
        only_unfinished: bool = True,
        answer_style: str | Mapping[str, str] = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_disjoint(splits)
        self.splits, self.rule, self.encoding = splits, rule, encoding
        self._make_sampler = sampler
        self._batch_size = batch_size
        self._group = group
        self._max_pairs = pairs_per_question
        self._max_eval_pairs = eval_pairs_per_question
        self._only_unfinished = only_unfinished
        self._answer_style = answer_style
        self._seed = seed
        self._encoded: dict[str, EncodedPairs] = {}
        self._train_loader: PairLoader | None = None
        self._resume: BatchState | None = None

    def pairs(self, part: str) -> list[TracePair]:
        """Return the pairs of ``"train"`` or ``"val"``.

        Raises:
            InputError: If the part has none, or training lacks a class.
        """
        return self.encoded(part).pairs

    def encoded(self, part: str) -> EncodedPairs:
        """Return the pairs of a part with their tokens; built once."""
        if part not in self._encoded:
            is_train = part == "train"
            pairs = build_part(
                part,
                getattr(self.splits, part),
                self.rule,
                max_pairs=self._max_pairs if is_train else self._max_eval_pairs,
                n_candidates=self._group if is_train else 1,
                only_unfinished=is_train and self._only_unfinished,
                answer_style=self._answer_style,
                seed=self._seed,
            )
            self._encoded[part] = EncodedPairs(pairs, self.encoding)
        return self._encoded[part]

    def setup(self, stage: str) -> None:
        """Build all pairs, so that errors in them show before the model is loaded."""
        for part in ("train", "val") if self.splits.val else ("train",):
            self.encoded(part)

    def train_dataloader(self) -> PairLoader:
        encoded = self.encoded("train")
        sampler = self._make_sampler(encoded.labels, encoded.group, self._seed)
        if self._group > 1:
            sampler.keep_together(encoded.head, self._group)
        batches = BucketBatchSampler(sampler, encoded.inputs.lengths, self._batch_size)
        self._train_loader = PairLoader(encoded, batches)
        if self._resume is not None:
            self._train_loader.load_state_dict(self._resume)
            self._resume = None
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the train loader in its epoch.

        Lightning keeps the state of a loader as well, but loads it only while it makes the loader,
        which ``Trainer.estimated_stepping_batches`` (a schedule asks for it) does too early.
        """
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the next train loader there; other stages start from the beginning."""
        if state_dict and self.trainer is not None and self.trainer.state.fn == "fit":
            self._resume = dict(state_dict)

    def val_dataloader(self) -> PairLoader | list[PairLoader]:
        """Return validation batches; none if the split has no validation part."""
        if not self.splits.val:
            return []
        encoded = self.encoded("val")
        # Sorting all pairs by length at once pads least; their order does not matter here.
        batches = BucketBatchSampler(
            OrderedSampler(encoded.labels, encoded.group),
            encoded.inputs.lengths,
            self._batch_size,
            bucket_batches=len(encoded),
        )
        return PairLoader(encoded, batches)
