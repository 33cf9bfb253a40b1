"""Samplers that know their rank: natural, oversampled, balanced; and bucketed batches.

Lightning must not split them again: ``Trainer(use_distributed_sampler=False)``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

from deepprune.core.options import Count, Ge, checked
from deepprune.core.protocols import IntArray
from deepprune.core.seeding import generator


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@dataclass(eq=False)
class PairSampler(Sampler[int]):
    """Indices of pairs for one epoch and one rank, drawn by ``(seed, epoch)``.

    Every rank draws the same epoch and takes each ``num_replicas``-th block of it. If the length is
    not divisible, the first indices are repeated, so that all ranks yield equally many (a rank
    short of a batch would hang the others), and blocks are whole.

    Args:
        labels: 1 or 0 for each pair, shape ``(P,)``.
        groups: Index of the question and model of each pair, shape ``(P,)``.
        seed: Decides the order.
        num_replicas: Number of ranks; by default that of ``torch.distributed``, 1 without it.
        rank: This rank; by default that of ``torch.distributed``, 0 without it.

    Raises:
        ValueError: If there are no labels, the shapes differ, or a number is out of range.
    """

    labels: IntArray
    groups: IntArray
    seed: int = 0
    num_replicas: int = field(
        default_factory=lambda: distributed.get_world_size() if _is_distributed() else 1,
        kw_only=True,
    )
    rank: int = field(
        default_factory=lambda: distributed.get_rank() if _is_distributed() else 0, kw_only=True
    )

    block = 1
    """Indices that are drawn together: they go to one rank and into one batch."""

    def __post_init__(self) -> None:
        self.epoch = 0
        self._heads: IntArray | None = None
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"rank must lie in [0, {self.num_replicas}), got {self.rank}.")
        self.labels = np.asarray(self.labels, dtype=np.int64)
        self.groups = np.asarray(self.groups, dtype=np.int64)
        if not self.labels.size:
            raise ValueError("a sampler needs at least one pair, got none.")
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError(f"labels must be 0 or 1, got {sorted(set(self.labels.tolist()))}.")
        if self.groups.shape != self.labels.shape:
            raise ValueError(
                "labels and groups must have the same shape, got "
                f"{self.labels.shape} and {self.groups.shape}."
            )

    @property
    def epoch_length(self) -> int:
        """Pairs of an epoch over all ranks, before any are repeated."""
        return len(self.labels)

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> IntArray:
        """Draw an epoch over all ranks: whole blocks, at least ``epoch_length`` indices."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def keep_together(self, heads: IntArray, n: int) -> None:
        """Arrange what is drawn so that pairs with a common head stand together, ``n`` in a block.

        An epoch keeps its pairs, but for those that are repeated to fill the last blocks. Copies
        of a pair are spread over the blocks of its head.

        Args:
            heads: Number of each pair's representative, those of a question next to each other,
                shape ``(P,)``.
            n: Pairs of a block.
        """
        self._heads, self.block = heads, n

    def epoch_indices(self) -> IntArray:
        """Return the indices of this epoch over all ranks, with equally many blocks for each."""
        rng = generator(self.seed, "epoch", self.epoch)
        indices = np.resize(self._draw(rng), len(self) * self.num_replicas)
        return indices if self._heads is None else self._by_head(indices, self._heads, rng)

    def __len__(self) -> int:
        return -(-self.epoch_length // (self.num_replicas * self.block)) * self.block

    def __iter__(self) -> Iterator[int]:
        blocks = self.epoch_indices().reshape(-1, self.block)
        return iter(blocks[self.rank :: self.num_replicas].ravel().tolist())

    def _by_head(self, indices: IntArray, heads: IntArray, rng: np.random.Generator) -> IntArray:
        """Make blocks of one head, others of what is left of each, and shuffle the blocks."""
        indices = indices[np.lexsort((_turns(indices), heads[indices]))]
        _, count = np.unique(heads[indices], return_counts=True)
        is_rest = _turns(heads[indices]) >= np.repeat(count // self.block * self.block, count)
        blocks = np.concatenate((indices[~is_rest], indices[is_rest])).reshape(-1, self.block)
        return rng.permutation(blocks).ravel()


class NaturalSampler(PairSampler):
    """Every pair once an epoch, in random order."""

    def _draw(self, rng: np.random.Generator) -> IntArray:
        return _cycle(np.arange(len(self.labels)), self.epoch_length, rng)


@checked
@dataclass(eq=False)
class OversampleSampler(PairSampler):
    """Every pair once, those of the minority class ``ratio`` times.

    With a ratio of 2.5 each minority pair is drawn twice, and a random half of them a third time.

    Args:
        ratio: How often a pair of the minority class appears; the paper: 2.
    """

    ratio: Annotated[float, Ge(1)] = field(default=2.0, kw_only=True)

    @property
    def epoch_length(self) -> int:
        minority, majority = _classes(self.labels)
        return len(majority) + round(self.ratio * len(minority))

    def _draw(self, rng: np.random.Generator) -> IntArray:
        minority, majority = _classes(self.labels)
        repeated = _cycle(minority, round(self.ratio * len(minority)), rng)
        return _cycle(np.concatenate((majority, repeated)), self.epoch_length, rng)


class BalancedSampler(PairSampler):
    """As many pairs of one class as of the other.

    An epoch skips about half of the majority, the next one others, and repeats the minority evenly.
    An odd length has one more of the majority.

    Raises:
        ValueError: If all pairs have the same label.
    """

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


@checked
@dataclass(eq=False)
class QuestionBalancedSampler(PairSampler):
    """Every question, and either class within a question, as often as any other.

    A question here is one model's traces of it: a group. An epoch consists of blocks of pairs of
    one question, its classes in turn, because a ranking loss compares within a batch. A question
    with one class counts as much as the others. No pair of a question and class is repeated in an
    epoch before all others have been drawn.

    Args:
        block: Pairs of a question that share a batch, both classes in turn; a divisor of the batch
            size. An epoch has whole blocks.
    """

    block: Count = field(default=2, kw_only=True)

    def _draw(self, rng: np.random.Generator) -> IntArray:
        names, numbers = np.unique(self.groups, return_inverse=True)
        order = _cycle(np.arange(len(names)), -(-self.epoch_length // self.block), rng)
        blocks = np.empty((len(order), self.block), dtype=np.int64)
        for pairs, places in zip(
            _rows_of(numbers, len(names)), _rows_of(order, len(names)), strict=True
        ):
            drawn = self._in_turn(pairs, len(places) * self.block, rng)
            blocks[places] = drawn.reshape(-1, self.block)
        return blocks.ravel()

    def _in_turn(self, pairs: IntArray, length: int, rng: np.random.Generator) -> IntArray:
        """Draw ``length`` of a question's pairs, its classes in turn, in random order."""
        classes = [pairs[rows] for rows in _classes(self.labels[pairs]) if len(rows)]
        rng.shuffle(classes)
        drawn = np.empty(length, dtype=np.int64)
        for turn, of_class in enumerate(classes):
            places = slice(turn, None, len(classes))
            drawn[places] = _cycle(of_class, len(drawn[places]), rng)
        return drawn


class OrderedSampler(PairSampler):
    """Every pair once an epoch, in the given order: for validation and test."""

    def _draw(self, rng: np.random.Generator) -> IntArray:
        return np.resize(np.arange(len(self.labels)), self.epoch_length)


def _classes(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Return indices of minority and majority; "different" is the minority of equal classes."""
    same, different = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    return (same, different) if len(same) < len(different) else (different, same)


def _turns(numbers: IntArray) -> IntArray:
    """Number the occurrences of each value from 0, in their order."""
    order = np.argsort(numbers, kind="stable")
    _, first, count = np.unique(numbers[order], return_index=True, return_counts=True)
    turns = np.empty(len(numbers), dtype=np.int64)
    turns[order] = np.arange(len(numbers)) - np.repeat(first, count)
    return turns


def _rows_of(numbers: IntArray, n: int) -> list[IntArray]:
    """Return the rows of each of the numbers 0, ..., n - 1."""
    rows = np.argsort(numbers, kind="stable")
    return np.split(rows, np.searchsorted(numbers[rows], np.arange(1, n)))


def _cycle(indices: IntArray, length: int, rng: np.random.Generator) -> IntArray:
    """Draw ``length`` of ``indices`` in random order, none twice before all have been drawn."""
    if not len(indices):
        return indices
    rounds = [rng.permutation(indices) for _ in range(-(-length // len(indices)))]
    return np.concatenate(rounds)[:length] if rounds else indices[:0]


BatchState: TypeAlias = dict[str, int]
"""Position of a ``BucketBatchSampler``: its ``epoch``, and ``batches_yielded`` in it."""


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of pairs of similar length; deterministic, and resumable in mid-epoch.

    A rank's epoch is cut into buckets of ``bucket_batches`` batches; the sampler's blocks in each
    bucket are sorted by length, cut into batches, and the batches are shuffled. This reduces
    padding, keeps blocks whole, and all ranks still yield equally many batches. As with torch's own
    ``DistributedSampler``, ``set_epoch`` is called before each epoch; Lightning does.

    Args:
        sampler: The pairs of an epoch.
        lengths: Tokens of each pair, shape ``(P,)``.
        batch_size: Pairs in a batch, >= 1, a multiple of the sampler's block; one batch of an
            epoch may be smaller.
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
        if batch_size % sampler.block:
            raise ValueError(
                f"batch_size must be a multiple of the sampler's block, got {batch_size} and "
                f"{sampler.block}: a block stays in one batch."
            )
        self.sampler = sampler
        self.lengths: IntArray = np.asarray(lengths, dtype=np.int64)
        self.batch_size, self.bucket_batches = batch_size, bucket_batches
        self._state = {"epoch": 0, "batches_yielded": 0}
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
            self._state = {"epoch": epoch, "batches_yielded": number}
            yield batch

    def _batches(self, epoch: int) -> list[list[int]]:
        blocks = np.fromiter(self.sampler, dtype=np.int64).reshape(-1, self.sampler.block)
        rng = generator(self.sampler.seed, "buckets", epoch)
        batches: list[list[int]] = []
        size = self.batch_size // self.sampler.block  # blocks of a batch
        bucket = size * self.bucket_batches
        for start in range(0, len(blocks), bucket):
            part = blocks[start : start + bucket]
            if self.bucket_batches > 1:
                part = part[np.argsort(self.lengths[part].max(axis=1), kind="stable")]
            cut = [part[i : i + size].ravel().tolist() for i in range(0, len(part), size)]
            batches.extend(cut[i] for i in rng.permutation(len(cut)))
        return batches

    def state_dict(self) -> BatchState:
        """Return the epoch and how many of its batches have been yielded."""
        return self._state

    def load_state_dict(self, state: BatchState) -> None:
        """Continue after the batches that ``state`` counts, if that epoch is iterated next."""
        self._state = self._resume = dict(state)
        self.set_epoch(state["epoch"])
