"""Batches of pairs: model inputs, labels, and what losses and metrics need of each pair.

Tensor names: B pairs of a batch, P pairs of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

from deepprune.core.protocols import BoolArray, IntArray
from deepprune.core.types import TracePair
from deepprune.data.pairs import labels_of
from deepprune.data.samplers import BatchState, BucketBatchSampler


class PairInputs(Protocol):
    """Model inputs of some pairs."""

    lengths: IntArray
    """Tokens of each pair as the model reads it, shape ``(P,)``."""

    is_truncated: BoolArray
    """Whether tokens of the pair are cut, shape ``(P,)``."""

    def batch(self, rows: IntArray) -> dict[str, Any]:
        """Return the model inputs of the pairs at ``rows``."""


PairEncoding: TypeAlias = Callable[[Sequence[TracePair]], PairInputs]
"""Makes the inputs of all pairs of a part; each text is read once."""


class PairBatch(TypedDict):
    """A batch: ``model(**batch["inputs"])`` gives the logits of ``batch["labels"]``.

    Labels are 1 or 0, float32. ``meta`` has the index of each pair in its part (``pair``; some are
    repeated so that ranks have equally many), of its question and model (``group``), and whether
    neither prefix has reached its answer (``is_unfinished``). All have shape ``(B,)``.
    """

    inputs: dict[str, Any]
    labels: Tensor
    meta: dict[str, Tensor]


class EncodedPairs:
    """The pairs of one part with their model inputs.

    Args:
        pairs: Pairs with a label.
        encoding: Makes the inputs.

    Attributes:
        labels: 1 or 0, shape ``(P,)``.
        group: Index of question and model of each pair, shape ``(P,)``.
        head: Index of the first prefix of each pair, shape ``(P,)``.
        inputs: Model inputs.
    """

    def __init__(self, pairs: Sequence[TracePair], encoding: PairEncoding) -> None:
        self.pairs = list(pairs)
        self.inputs = encoding(self.pairs)
        self.labels: IntArray = labels_of(self.pairs)
        self.is_unfinished: BoolArray = np.array([pair.is_unfinished for pair in self.pairs], bool)

        firsts = [pair.first for pair in self.pairs]
        self.group = _numbers((p.trace.question.key, p.trace.model) for p in firsts)
        self.head = _numbers(prefix.key for prefix in firsts)

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """Return the pairs at ``indices`` as tensors."""
        rows = np.asarray(indices, dtype=np.int64)
        return PairBatch(
            inputs=self.inputs.batch(rows),
            labels=torch.from_numpy(self.labels[rows].astype(np.float32)),
            meta={
                "pair": torch.from_numpy(rows),
                "group": torch.from_numpy(self.group[rows]),
                "is_unfinished": torch.from_numpy(self.is_unfinished[rows]),
            },
        )


def _numbers(names: Iterable[object]) -> IntArray:
    """Number distinct names in the order of their first appearance."""
    number: dict[object, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], dtype=np.int64)


class PairLoader:
    """A dataloader of pairs that can be resumed in mid-epoch.

    Not a ``torch.utils.data.DataLoader``: the tokens are in memory, so worker processes would only
    draw batches ahead of those trained on, and under DDP Lightning rebuilds a ``DataLoader`` around
    a second sampler unless told not to.
    """

    def __init__(self, pairs: EncodedPairs, batch_sampler: BucketBatchSampler) -> None:
        self.pairs = pairs
        self.batch_sampler = batch_sampler  # Lightning sets the epoch of its sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[PairBatch]:
        return (self.pairs.batch(indices) for indices in self.batch_sampler)

    def state_dict(self) -> BatchState:
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state: BatchState) -> None:
        self.batch_sampler.load_state_dict(state)
