"""Forward-pass FLOPs of a transformer, for both generator and judge."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from deepprune.core.protocols import FloatArray, IntArray

Tokens = TypeVar("Tokens", float, FloatArray)


def attended(
    n_tokens: Tokens, before: FloatArray | IntArray | float = 0.0, window: float = np.inf
) -> Tokens:
    """Return how many tokens the next ``n_tokens`` tokens attend to, summed: ``sum min(i, W)``.

    A token attends to itself and to all before it, or of a sliding window to the last ``W`` of
    these; ``i`` runs from ``before + 1`` to ``before + n_tokens``.

    >>> float(attended(3.0)), float(attended(3.0, before=10)), float(attended(3.0, window=2))
    (6.0, 36.0, 5.0)

    Args:
        n_tokens: Tokens of a sequence, or of several.
        before: Tokens before these, e.g. of the prompt.
        window: ``W``, at least 1.
    """

    def up_to(length: Any) -> Any:
        inside = np.minimum(length, window)
        return inside * (length - (inside - 1) / 2)

    found: Tokens = up_to(before + n_tokens) - up_to(before)
    return found


def transformer_flops(
    n_params: float, n_layers: int, hidden: int, n_tokens: Tokens, *, causal: bool = True
) -> Tokens:
    """Return the FLOPs of reading or generating ``n_tokens`` tokens: ``2 P T + 4 L d A``.

    ``2 P T`` is one multiplication and one addition per weight and token (Kaplan et al. 2020,
    section 2.1, https://arxiv.org/abs/2001.08361). Attention adds the products ``Q K^T`` and
    ``A V``, ``2 d`` FLOPs each per layer and pair of tokens: ``A = T^2`` pairs if every token sees
    every token, about half of them if it sees only those before it, see `attended`. Decoding token
    by token with a KV cache costs the same as one causal pass over all of them.

    >>> transformer_flops(1000, 2, 8, 10, causal=False)
    26400.0

    Args:
        n_params: Weights ``P`` that a token is multiplied with. Exclude the embedding table of a
            model without a language-model head: a look-up multiplies nothing (ibid.). A tied table
            counts once, as the head.
        n_layers: Transformer layers ``L``.
        hidden: Attention width ``d``, heads x head size.
        n_tokens: Length ``T`` of the sequence, or of several.
        causal: Whether a token sees only those before it.
    """
    pairs = attended(n_tokens) if causal else n_tokens**2
    return 2.0 * n_params * n_tokens + 4.0 * n_layers * hidden * pairs
