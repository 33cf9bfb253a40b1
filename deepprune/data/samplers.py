"""Samplers that know their rank: natural, oversampled and balanced classes, and bucketed batches.

Lightning must not split them again: ``Trainer(use_distributed_sampler=False)``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

from deepprune.protocols import IntArray
from deepprune.seeding import generator


class PairSampler(Sampler[int]):
    """Indices of pairs for one epoch and one rank, drawn by ``(seed, epoch)``.

    Every rank draws the same epoch and takes each ``num_replicas``-th index of it. Where the length
    does not divide, the epoch's first indices fill up the rest, so that all ranks yield equally
    many (a rank short of a batch would hang the others).

    Args:
        labels: 1 or 0 for each pair, shape ``(P,)``.
        seed: Decides the order.
        epoch_length: Indices in an epoch over all ranks, before filling up; ``None`` for the
            sampler's natural length.
        num_replicas: Number of ranks; ``None`` asks ``torch.distributed``, 1 without it.
        rank: This rank; ``None`` likewise.

    Raises:
        ValueError: If there are no labels, or a number is out of range.
    """

    def __init__(
        self,
        labels: Sequence[int] | IntArray,
        seed: int = 0,
        *,
        epoch_length: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        is_distributed = distributed.is_available() and distributed.is_initialized()
        if num_replicas is None:
            num_replicas = distributed.get_world_size() if is_distributed else 1
        if rank is None:
            rank = distributed.get_rank() if is_distributed else 0
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must lie in [0, {num_replicas}), got {rank}.")
        if epoch_length is not None and epoch_length < 1:
            raise ValueError(f"epoch_length must be >= 1 or None, got {epoch_length}.")
        self.labels: IntArray = np.asarray(labels, dtype=np.int64)
        if not self.labels.size:
            raise ValueError("a sampler needs at least one pair, got none.")
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError(f"labels must be 0 or 1, got {sorted(set(self.labels.tolist()))}.")
        self.seed, self.epoch = seed, 0
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch_length = self._natural_length() if epoch_length is None else epoch_length

    @abstractmethod
    def _natural_length(self) -> int:
        """Length of an epoch where the caller states none."""

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> IntArray:
        """The indices of an epoch over all ranks, shuffled, shape ``(epoch_length,)``."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def epoch_indices(self) -> IntArray:
        """The indices of this epoch over all ranks, filled up to a multiple of their number."""
        indices = self._draw(generator(self.seed, "epoch", self.epoch))
        return np.resize(indices, len(self) * self.num_replicas)

    def __len__(self) -> int:
        return -(-self.epoch_length // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self.epoch_indices()[self.rank :: self.num_replicas].tolist())


class NaturalSampler(PairSampler):
    """Every pair once an epoch, in random order; the natural length is the number of pairs."""

    def _natural_length(self) -> int:
        return len(self.labels)

    def _draw(self, rng: np.random.Generator) -> IntArray:
        return _cycle(np.arange(len(self.labels)), self.epoch_length, rng)


class OversampleSampler(PairSampler):
    """Every pair once, those of the minority class ``ratio`` times (the paper: 2).

    Of a ratio of 2.5 each minority pair gets two, and a random half of them a third. The natural
    length is ``#majority + round(ratio * #minority)``; with a length of its own, the epoch is a
    random part of that.

    Args:
        labels: 1 or 0 for each pair, shape ``(P,)``.
        seed: Decides the order.
        ratio: How often a pair of the minority class appears, >= 1.
        epoch_length: See ``PairSampler``.
        num_replicas: See ``PairSampler``.
        rank: See ``PairSampler``.

    Raises:
        ValueError: If ``ratio`` is below 1.
    """

    def __init__(
        self,
        labels: Sequence[int] | IntArray,
        seed: int = 0,
        *,
        ratio: float = 2.0,
        epoch_length: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if ratio < 1:
            raise ValueError(f"ratio must be >= 1, got {ratio}. 1 repeats nothing.")
        self.ratio = ratio
        super().__init__(
            labels, seed, epoch_length=epoch_length, num_replicas=num_replicas, rank=rank
        )

    def _natural_length(self) -> int:
        minority, majority = _classes(self.labels)
        return len(majority) + round(self.ratio * len(minority))

    def _draw(self, rng: np.random.Generator) -> IntArray:
        minority, majority = _classes(self.labels)
        repeated = _cycle(minority, round(self.ratio * len(minority)), rng)
        return _cycle(np.concatenate((majority, repeated)), self.epoch_length, rng)


class BalancedSampler(PairSampler):
    """As many pairs of one class as of the other.

    The natural length is the number of pairs: of the majority about half are left out in an epoch,
    and other ones in the next; those of the minority are repeated evenly. An odd length has one
    more of the majority.

    Raises:
        ValueError: If only one class is there.
    """

    def _natural_length(self) -> int:
        return len(self.labels)

    def _draw(self, rng: np.random.Generator) -> IntArray:
        minority, majority = _classes(self.labels)
        if not len(minority):
            raise ValueError(
                f"balancing needs both classes, got only label {self.labels[0]}. "
                "Use NaturalSampler, or more questions."
            )
        half = self.epoch_length // 2
        both = (_cycle(minority, half, rng), _cycle(majority, self.epoch_length - half, rng))
        return rng.permutation(np.concatenate(both))


class OrderedSampler(PairSampler):
    """Every pair once an epoch, in the given order: for validation and test."""

    def _natural_length(self) -> int:
        return len(self.labels)

    def _draw(self, rng: np.random.Generator) -> IntArray:
        return np.resize(np.arange(len(self.labels)), self.epoch_length)


def _classes(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Indices of the minority and of the majority; of equal classes "different" is the minority."""
    same, different = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    return (same, different) if len(same) < len(different) else (different, same)


def _cycle(indices: IntArray, length: int, rng: np.random.Generator) -> IntArray:
    """``length`` of ``indices`` in random order, none repeated before all have had their turn."""
    if not len(indices):
        return indices
    rounds = [rng.permutation(indices) for _ in range(-(-length // len(indices)))]
    return np.concatenate(rounds)[:length] if rounds else indices[:0]


class BatchState(TypedDict):
    """Where a ``BucketBatchSampler`` stands."""

    epoch: int
    batches_yielded: int


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of pairs of similar length; deterministic, and resumable in mid-epoch.

    A rank's epoch is cut into buckets of ``bucket_batches`` batches; each bucket is sorted by
    length, cut into batches, and its batches are shuffled. Padding falls, and all ranks still
    yield equally many batches. As with torch's own ``DistributedSampler``, whoever iterates calls
    ``set_epoch`` before each epoch; Lightning does.

    Args:
        sampler: What is batched.
        lengths: Tokens of each pair, shape ``(P,)``.
        batch_size: Pairs in a batch, >= 1; one batch of an epoch may be smaller.
        bucket_batches: Batches in a bucket, >= 1; 1 keeps the sampler's own order.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        sampler: PairSampler,
        lengths: Sequence[int] | IntArray,
        batch_size: int,
        *,
        bucket_batches: int = 8,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("bucket_batches", bucket_batches)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        self.sampler = sampler
        self.lengths: IntArray = np.asarray(lengths, dtype=np.int64)
        self.batch_size, self.bucket_batches = batch_size, bucket_batches
        self._state = BatchState(epoch=0, batches_yielded=0)
        self._resume: BatchState | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, resume, self._resume = self.sampler.epoch, self._resume, None
        start = resume["batches_yielded"] if resume and resume["epoch"] == epoch else 0
        for number, batch in enumerate(self._batches(epoch)[start:], start + 1):
            self._state = BatchState(epoch=epoch, batches_yielded=number)
            yield batch

    def _batches(self, epoch: int) -> list[list[int]]:
        indices = np.fromiter(self.sampler, dtype=np.int64)
        rng = generator(self.sampler.seed, "buckets", epoch)
        batches: list[list[int]] = []
        bucket = self.batch_size * self.bucket_batches
        for start in range(0, len(indices), bucket):
            part = indices[start : start + bucket]
            if self.bucket_batches > 1:
                part = part[np.argsort(self.lengths[part], kind="stable")]
            cut = [
                part[i : i + self.batch_size].tolist() for i in range(0, len(part), self.batch_size)
            ]
            batches.extend(cut[i] for i in rng.permutation(len(cut)))
        return batches

    def state_dict(self) -> BatchState:
        """The epoch and how many of its batches have been handed out."""
        return self._state

    def load_state_dict(self, state: BatchState) -> None:
        """Go on after the batches that ``state`` counts, if that epoch is iterated next."""
        self._state = self._resume = BatchState(
            epoch=state["epoch"], batches_yielded=state["batches_yielded"]
        )
        self.set_epoch(state["epoch"])
