"""Forward passes over many pairs, batched by tokens; a shared beginning is read once.

Tensor names: B pairs, H tokens of the shared head, T tokens after it, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from deepprune.core.protocols import FloatArray
from deepprune.judge.network.backbones import PairClassifier
from deepprune.judge.network.encoding import PairEncoder, PairTokens

Collate = Callable[[Sequence[PairTokens]], dict[str, Tensor]]


def pair_logits(
    model: PairClassifier,
    encoder: PairEncoder,
    sequences: Sequence[PairTokens],
    *,
    tokens_per_batch: int,
    on_batch: Callable[[int], object] = lambda n: None,
) -> FloatArray:
    """Compute the logits of encoded pairs, shape ``(len(sequences),)``.

    Pairs are sorted by length, so that a batch has next to no padding. A causal model reads the
    part before the second prefix, the head, once for all pairs that share it: its keys and values
    are kept, and the second prefixes are read after them, batch by batch. The logits are those of
    separate passes up to rounding.

    Args:
        model: A model in evaluation mode.
        encoder: Makes the model's inputs.
        sequences: Encoded pairs, from ``encoder.join``.
        tokens_per_batch: Tokens of a batch, padding and the shared part of each row included; a
            longer pair is a batch of its own.
        on_batch: Called with the number of pairs done.
    """
    device = next(model.parameters()).device

    def collate(some: Sequence[PairTokens]) -> dict[str, Tensor]:
        return {name: values.to(device) for name, values in encoder.collate(some).items()}

    logits = np.empty(len(sequences))
    groups = _by_head(sequences) if model.pooling == "last" else []
    shared = {row for rows in groups for row in rows}
    alone = [row for row in range(len(sequences)) if row not in shared]

    def run(rows: Sequence[int], forward: Callable[[Sequence[PairTokens]], Tensor]) -> None:
        for batch in token_batches([len(sequences[i].input_ids) for i in rows], tokens_per_batch):
            chosen = [rows[i] for i in batch]
            logits[chosen] = forward([sequences[i] for i in chosen]).cpu().numpy()
            on_batch(len(chosen))

    with torch.inference_mode():
        run(alone, lambda some: model(**collate(some)))
        for group in groups:
            run(group, _forward_after_head(model, collate, sequences[group[0]]))
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


def _forward_after_head(
    model: PairClassifier, collate: Collate, sequence: PairTokens
) -> Callable[[Sequence[PairTokens]], Tensor]:
    """Read the head of ``sequence``, and return the forward pass of pairs that begin with it.

    Keys and values of the head have the shape ``(1, heads, H, head size)`` in each layer.
    """
    n = sequence.n_head
    # Without a config each layer keeps all keys: a sliding window is then up to the mask.
    cache = DynamicCache()
    head = PairTokens(sequence.input_ids[:n], n)
    model.encoder(**collate([head]), past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers

    def forward(sequences: Sequence[PairTokens]) -> Tensor:
        inputs = collate([PairTokens(s.input_ids[n:], 0) for s in sequences])
        mask_BT = inputs["attention_mask"]
        shape = len(sequences), -1, -1, -1
        # Views: a layer's update concatenates into a new tensor and leaves the head's as it is.
        expanded = [(layer.keys.expand(shape), layer.values.expand(shape)) for layer in layers]
        hidden_BTD = model.encoder(
            input_ids=inputs["input_ids"],
            attention_mask=torch.cat((mask_BT.new_ones(len(sequences), n), mask_BT), dim=1),
            position_ids=inputs["position_ids"] + n,
            past_key_values=DynamicCache(expanded),
            use_cache=True,
        ).last_hidden_state
        return model.read_out(hidden_BTD, inputs)

    return forward


def _by_head(sequences: Sequence[PairTokens]) -> list[list[int]]:
    """Group the rows that share a head with others."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        head = tuple(sequence.input_ids[: sequence.n_head])
        groups.setdefault(head, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]
