"""Pairs as token batches: each prefix is tokenised once, each batch is padded to its longest pair.

Tensor names: B pairs of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from deepprune.data.samplers import BatchState, BucketBatchSampler
from deepprune.protocols import BoolArray, IntArray
from deepprune.types import TracePair


class PairTokens(NamedTuple):
    """One pair as the model reads it.

    Attributes:
        input_ids: Token ids.
        segments: For each token 1 where it belongs to the second prefix, else 0.
        is_truncated: Whether the window was too short for the pair.
    """

    input_ids: list[int]
    segments: list[int]
    is_truncated: bool


class PairEncoding(Protocol):
    """How two prefixes become one sequence; ``judge.encoding.PairEncoder`` is one."""

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens."""
        ...

    def join(
        self, question: Sequence[int], first: Sequence[int], second: Sequence[int]
    ) -> PairTokens:
        """One sequence of the token ids of a question and two prefixes."""
        ...

    def length(self, n_question: int, n_first: int, n_second: int) -> int:
        """Tokens of the sequence that ``join`` makes of so many."""
        ...

    def collate(self, sequences: Sequence[PairTokens]) -> dict[str, Tensor]:
        """Model inputs, each of shape ``(B, T)``."""
        ...


class PairMeta(TypedDict):
    """What metrics need to know of each pair of a batch; all of shape ``(B,)``.

    Attributes:
        pair: Index into the pairs of this part; a rank's filled-up pairs repeat one.
        question: Index of the question, the same for all models.
        model: Index of the generating model.
        dataset: Index of the dataset.
        is_unfinished: Neither prefix has reached its answer.
    """

    pair: Tensor
    question: Tensor
    model: Tensor
    dataset: Tensor
    is_unfinished: Tensor


class PairBatch(TypedDict):
    """A batch: ``model(**batch["inputs"])`` gives the logits of ``batch["labels"]``."""

    inputs: dict[str, Tensor]
    labels: Tensor
    meta: PairMeta


class EncodedPairs:
    """The pairs of one part with the tokens of their prefixes.

    Args:
        pairs: Pairs with a label.
        encoding: Tokenises and joins them.
    """

    def __init__(self, pairs: Sequence[TracePair], encoding: PairEncoding) -> None:
        self.pairs = list(pairs)
        self._encoding = encoding
        self.labels: IntArray = np.array([_label(pair) for pair in self.pairs], dtype=np.int64)
        self.is_unfinished: BoolArray = np.array([pair.is_unfinished for pair in self.pairs], bool)

        questions = [pair.first.trace.question for pair in self.pairs]
        self.question = _numbers([(q.dataset, q.question_id) for q in questions])
        self.dataset = _numbers([q.dataset for q in questions])
        self.model = _numbers([pair.first.trace.model for pair in self.pairs])

        ids: dict[str, int] = {}
        rows = [
            [ids.setdefault(text, len(ids)) for text in (q.text, pair.first.text, pair.second.text)]
            for q, pair in zip(questions, self.pairs, strict=True)
        ]
        self._texts: IntArray = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self._tokens = encoding.tokenise(list(ids))
        sizes = np.array([len(tokens) for tokens in self._tokens], dtype=np.int64)
        self.lengths: IntArray = np.array(
            [encoding.length(*row) for row in sizes[self._texts].tolist()], dtype=np.int64
        )
        """Tokens of each pair as the model reads it, shape ``(P,)``."""

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """The pairs at ``indices`` as tensors."""
        rows = np.asarray(indices, dtype=np.int64)
        sequences = [
            self._encoding.join(*(self._tokens[text] for text in row))
            for row in self._texts[rows].tolist()
        ]
        return PairBatch(
            inputs=self._encoding.collate(sequences),
            labels=torch.from_numpy(self.labels[rows].astype(np.float32)),
            meta=PairMeta(
                pair=torch.from_numpy(rows),
                question=torch.from_numpy(self.question[rows]),
                model=torch.from_numpy(self.model[rows]),
                dataset=torch.from_numpy(self.dataset[rows]),
                is_unfinished=torch.from_numpy(self.is_unfinished[rows]),
            ),
        )


class PairLoader:
    """Batches of pairs, resumable in mid-epoch; what a dataloader is to Lightning.

    No ``torch.utils.data.DataLoader`` on purpose: the tokens are in memory, so worker processes
    would bring nothing but batches drawn ahead of those trained on, and under DDP Lightning
    rebuilds a ``DataLoader`` around a second sampler unless told not to.

    Args:
        pairs: Where batches come from.
        batch_sampler: Which pairs go together.
    """

    def __init__(self, pairs: EncodedPairs, batch_sampler: BucketBatchSampler) -> None:
        self.pairs = pairs
        self.batch_sampler = batch_sampler  # Lightning sets the epoch of its sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[PairBatch]:
        return (self.pairs.batch(indices) for indices in self.batch_sampler)

    def state_dict(self) -> BatchState:
        """Where the batch sampler stands."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state: BatchState) -> None:
        """Go on where ``state`` was taken."""
        self.batch_sampler.load_state_dict(state)


def _label(pair: TracePair) -> int:
    if pair.label is None:
        raise ValueError("a pair needs a label, got one with a trace that has no answer.")
    return pair.label


def _numbers(names: Sequence[object]) -> IntArray:
    """The names as numbers, in the order of their first appearance."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
