"""Forward passes over many pairs: batched by tokens, what pairs share computed once.

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
from deepprune.judge.network.backbones import PairClassifier, Pooling
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
    """Logits of encoded pairs, shape ``(len(sequences),)``.

    Pairs are sorted by length, so that a batch has next to no padding. A causal model reads the
    part before the second prefix (`PairTokens.segments` 0) once for all pairs that have the same:
    its keys and values are kept, and the second prefixes are read after them, batch by batch. The
    logits are those of separate passes up to rounding.

    Args:
        model: In evaluation mode.
        encoder: Gives the model's inputs.
        sequences: From ``encoder.join``.
        tokens_per_batch: Tokens of a batch, padding and the shared part of each row included; a
            longer pair is a batch of its own.
        on_batch: Called with the number of pairs done.
    """
    device = next(model.parameters()).device

    def collate(some: Sequence[PairTokens]) -> dict[str, Tensor]:
        return {name: values.to(device) for name, values in encoder.collate(some).items()}

    logits = np.empty(len(sequences))
    groups = _by_head(sequences) if model.pooling is Pooling.LAST else []
    shared = {row for rows in groups for row in rows}
    alone = [row for row in range(len(sequences)) if row not in shared]
    with torch.inference_mode():
        for rows in token_batches([len(sequences[i].input_ids) for i in alone], tokens_per_batch):
            found = model(**collate([sequences[alone[row]] for row in rows]))
            logits[[alone[row] for row in rows]] = found.cpu().numpy()
            on_batch(len(rows))
        for group in groups:
            head = _Head(model, collate, sequences[group[0]])
            for rows in token_batches(
                [len(sequences[i].input_ids) for i in group], tokens_per_batch
            ):
                found = head.logits([sequences[group[row]] for row in rows])
                logits[[group[row] for row in rows]] = found.cpu().numpy()
                on_batch(len(rows))
    return logits


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Rows grouped by length, longest first, so that the largest batch comes first."""
    batches: list[list[int]] = []
    width = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or (len(batches[-1]) + 1) * width > tokens_per_batch:
            batches.append([])
            width = lengths[row]
        batches[-1].append(row)
    return batches


class _Head:
    """Keys and values of what some pairs share, shapes ``(1, heads, H, head size)`` per layer.

    Args:
        model: A causal classifier.
        collate: Sequences to inputs on the model's device.
        sequence: Any of the pairs.
    """

    def __init__(self, model: PairClassifier, collate: Collate, sequence: PairTokens) -> None:
        self._model, self._collate = model, collate
        self._n = _head_length(sequence)
        head = PairTokens(sequence.input_ids[: self._n], sequence.segments[: self._n])
        # Without a config each layer keeps all keys: a sliding window is then up to the mask.
        self._cache = DynamicCache()
        model.encoder(**collate([head]), past_key_values=self._cache, use_cache=True)

    def logits(self, sequences: Sequence[PairTokens]) -> Tensor:
        """Logits of pairs that begin with this head, shape ``(B,)``."""
        inputs: dict[str, Any] = self._collate(
            [PairTokens(s.input_ids[self._n :], s.segments[self._n :]) for s in sequences]
        )
        mask_BT = inputs["attention_mask"]
        n_pairs = len(sequences)
        layers: list[Any] = self._cache.layers
        # Views: a layer's update concatenates into a new tensor and leaves the head's as it is.
        expanded = [
            (layer.keys.expand(n_pairs, -1, -1, -1), layer.values.expand(n_pairs, -1, -1, -1))
            for layer in layers
        ]
        hidden_BTD = self._model.encoder(
            input_ids=inputs["input_ids"],
            attention_mask=torch.cat((mask_BT.new_ones(n_pairs, self._n), mask_BT), dim=1),
            position_ids=inputs["position_ids"] + self._n,
            past_key_values=DynamicCache(expanded),
            use_cache=True,
        ).last_hidden_state
        return self._model.read_out(hidden_BTD, inputs)


def _by_head(sequences: Sequence[PairTokens]) -> list[list[int]]:
    """Rows that begin with the same head, two or more of them."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        head = tuple(sequence.input_ids[: _head_length(sequence)])
        groups.setdefault(head, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _head_length(sequence: PairTokens) -> int:
    return len(sequence.segments) - sum(sequence.segments)
