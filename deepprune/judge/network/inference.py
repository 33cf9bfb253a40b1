"""Forward passes over many pairs, batched by tokens; a shared beginning is read once a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from deepprune.core.protocols import FloatArray
from deepprune.judge.network.backbones import PairClassifier
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.packing import PairTokens, on_device

KEYS = 8
"""Keys that the tails of a packed batch may see, padding included, per token of its limit.

They are in memory at once."""


def pair_logits(
    model: PairClassifier,
    encoder: PairEncoder,
    sequences: Sequence[PairTokens],
    *,
    tokens_per_batch: int,
    on_batch: Callable[[int], object] = lambda n: None,
) -> FloatArray:
    """Compute the logits of encoded pairs, shape ``(len(sequences),)``.

    A causal model reads pairs with a common head together, and the head once a batch (`packing`).
    For others pairs are sorted by length, so that a batch has next to no padding.

    Args:
        model: A model in evaluation mode.
        encoder: Makes the model's inputs.
        sequences: Encoded pairs, from ``encoder.join``.
        tokens_per_batch: Tokens of a batch: of a packed one each head once and no padding, else
            with padding. A longer pair is a batch of its own.
        on_batch: Called with the number of pairs done.
    """
    logits = np.empty(len(sequences))
    if not sequences:
        return logits
    device = next(model.parameters()).device
    with torch.inference_mode():
        if model.pooling == "last" and model.reads_packed(sequences):
            batches = head_batches(sequences, tokens_per_batch)
        else:
            batches = token_batches([len(s.input_ids) for s in sequences], tokens_per_batch)
        for batch in batches:
            inputs = encoder.collate([sequences[row] for row in batch])
            logits[batch] = model(**on_device(inputs, device)).cpu().numpy()
            on_batch(len(batch))
    return logits


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group rows by length, longest first, so that the largest batch comes first."""
    batches: list[list[int]] = []
    width = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or (len(batches[-1]) + 1) * width > tokens_per_batch:
            batches.append([])
            width = lengths[row]
        batches[-1].append(row)
    return batches


def head_batches(sequences: Sequence[PairTokens], tokens_per_batch: int) -> list[list[int]]:
    """Group rows by head, the longest head first; only heads with too many rows are split."""
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        rows_of.setdefault(tuple(sequence.head), []).append(row)
    batches: list[list[int]] = []
    room = head_size = tail_size = 0  # of a batch: tokens left, longest head and tail
    for head, rows in sorted(rows_of.items(), key=lambda item: -len(item[0])):
        n_tokens = len(head) + sum(len(sequences[row].tail) for row in rows)
        room = room - len(head) if n_tokens <= room else 0
        for row in sorted(rows, key=lambda row: -len(sequences[row].tail)):
            n_tail = len(sequences[row].tail)
            n_keys = head_size + max(tail_size, n_tail)
            if n_tail > room or (len(batches[-1]) + 1) * n_keys > KEYS * tokens_per_batch:
                batches.append([])
                room, head_size, tail_size = tokens_per_batch - len(head), len(head), 0
            batches[-1].append(row)
            room, tail_size = room - n_tail, max(tail_size, n_tail)
    return batches
