"""Packed batches of a causal judge: what pairs have in common is read once.

A pair is a head (instruction, question, representative) and a tail (candidate, closing words). A
packed batch is one row without padding: each distinct head, then all tails. Everything in the model
but the attention reads the row as it is. The attention runs the heads causally, and the tails as a
batch over the keys of their head and their own. Logits and gradients are those of pairs that are
read one by one, for ``sum(heads) + sum(tails)`` tokens in place of ``sum(heads of all pairs) +
sum(tails)``. A dense mask over the row gives the same and is slower than pair by pair.

Tensor names: N tokens of the row, R heads of up to S tokens, B tails of up to C tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "deepprune_packed"
"""Name of our attention function among those of transformers; it is ``sdpa`` for other inputs."""

_FULL = "full_attention"


class PairTokens(NamedTuple):
    """One pair as the model reads it.

    Attributes:
        input_ids: Token ids.
        n_head: Tokens before the second prefix.
    """

    input_ids: list[int]
    n_head: int

    @property
    def head(self) -> list[int]:
        return self.input_ids[: self.n_head]

    @property
    def tail(self) -> list[int]:
        return self.input_ids[self.n_head :]


class Packing(NamedTuple):
    """Places of heads and tails in a packed row.

    Attributes:
        heads_RS: Place of each token of each head; the last one is repeated up to the longest.
        tails_BC: The same for the tails.
        head_B: Number of each pair's head.
        row_N: Place of each token of the row among the padded heads and, after them, tails.
    """

    heads_RS: Tensor
    tails_BC: Tensor
    head_B: Tensor
    row_N: Tensor


def pack(sequences: Sequence[PairTokens]) -> dict[str, Any]:
    """Make one row of all pairs, their heads in common.

    Returns:
        ``input_ids`` and ``position_ids``, int64 ``(1, N)``; ``attention_mask``, the keys that each
        token of a tail sees, bool ``(B, 1, C, S + C)``; and ``packing``.
    """
    numbers: dict[tuple[int, ...], int] = {}
    head_B = torch.tensor([numbers.setdefault(tuple(s.head), len(numbers)) for s in sequences])
    heads = [torch.tensor(head) for head in numbers]
    tails = [torch.tensor(s.tail) for s in sequences]
    head_sizes = torch.tensor([len(head) for head in heads])
    tail_sizes = torch.tensor([len(tail) for tail in tails])
    starts = torch.cat((head_sizes, tail_sizes)).cumsum(0).roll(1)
    starts[0] = 0
    heads_RS, is_head_RS = _places(starts[: len(heads)], head_sizes)
    tails_BC, is_tail_BC = _places(starts[len(heads) :], tail_sizes)
    n = tails_BC.shape[1]
    sees_head_BCS = is_head_RS[head_B, None].expand(-1, n, -1)
    sees_own_BCC = torch.ones(n, n, dtype=torch.bool).tril().expand(len(tails), -1, -1)
    positions = [torch.arange(len(head)) for head in heads]
    positions += [
        torch.arange(start, start + len(tail))
        for tail, start in zip(tails, head_sizes[head_B].tolist(), strict=True)
    ]
    return {
        "input_ids": torch.cat(heads + tails)[None],
        "position_ids": torch.cat(positions)[None],
        "attention_mask": torch.cat((sees_head_BCS, sees_own_BCC), dim=2)[:, None],
        "packing": Packing(
            heads_RS,
            tails_BC,
            head_B,
            torch.cat((is_head_RS.flatten(), is_tail_BC.flatten())).nonzero()[:, 0],
        ),
    }


def unpack(inputs: dict[str, Any]) -> list[PairTokens]:
    """Return the pairs of ``pack``."""
    ids = inputs["input_ids"][0].tolist()
    heads, tails = (
        [ids[place[0] : place[-1] + 1] for place in places.tolist()]
        for places in inputs["packing"][:2]
    )
    of_pair = [heads[number] for number in inputs["packing"].head_B.tolist()]
    return [PairTokens(head + tail, len(head)) for head, tail in zip(of_pair, tails, strict=True)]


def pad(sequences: Sequence[PairTokens]) -> dict[str, Tensor]:
    """Make a row of each pair, padded on the right.

    Returns:
        ``input_ids``, ``attention_mask`` and ``position_ids``, int64 ``(B, T)``.
    """
    ids = [torch.tensor(s.input_ids) for s in sequences]
    mask = pad_sequence([torch.ones_like(some) for some in ids], batch_first=True)
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Copy model inputs to a device."""
    return {
        name: Packing(*(places.to(device) for places in value))
        if isinstance(value, Packing)
        else value.to(device)
        for name, value in inputs.items()
    }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within a packed row, or as ``sdpa`` does to inputs without ``packing``.

    Args:
        module: The attention layer.
        query: Shape ``(1, heads, N, head size)``.
        key: The same, with as many heads or a divisor of it.
        value: Shape of ``key``.
        attention_mask: That of ``pack``.
        packing: That of ``pack``.
        dropout: Probability for attention weights.
        scaling: Factor of the dot products.
        **others: Arguments of ``sdpa``.

    Returns:
        Shape ``(1, N, heads, head size)``.
    """
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **others
        )
    settings: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": True}
    head_query, head_key, head_value = (_rows(x, packing.heads_RS) for x in (query, key, value))
    heads = scaled_dot_product_attention(
        head_query, head_key, head_value, is_causal=True, **settings
    )
    tail_query, *own = (_rows(x, packing.tails_BC) for x in (query, key, value))
    keys, values = (
        torch.cat((shared[packing.head_B], x), dim=2)
        for shared, x in zip((head_key, head_value), own, strict=True)
    )
    if query.device.type != "cpu":  # only the CPU's kernel takes grouped heads with a mask
        n = query.shape[1] // key.shape[1]
        keys, values = repeat_kv(keys, n), repeat_kv(values, n)
    tails = scaled_dot_product_attention(
        tail_query, keys, values, attn_mask=attention_mask, **settings
    )
    padded = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in (heads, tails)])
    return padded.index_select(0, packing.row_N)[None], None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def why_not_packed(config: Any, attention: str) -> str:
    """Return why a causal model of ``config`` cannot read packed rows, or "".

    ``attention`` is the name of its attention function.

    A window would not be one across the row, and nothing in transformers refuses our mask then.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if getattr(config, "sliding_window", None) else _FULL]
    if others := sorted(set(kinds) - {_FULL}):
        return f"sharing a representative needs full attention in all layers, got {others[0]}"
    if attention not in ("sdpa", PACKED):
        return f"sharing a representative needs attention=sdpa, got {attention}"
    return ""


def _places(starts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of parts of a row, padded with their last, and which are no padding."""
    steps = torch.arange(int(sizes.max()))
    return starts[:, None] + steps.minimum(sizes[:, None] - 1), steps < sizes[:, None]


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Take places of a row ``(1, heads, N, size)`` as ``(*places, heads, size)``, transposed."""
    tokens_NHD = x[0].transpose(0, 1)
    return (
        tokens_NHD.index_select(0, places.flatten())
        .view(*places.shape, *tokens_NHD.shape[1:])
        .transpose(1, 2)
    )
