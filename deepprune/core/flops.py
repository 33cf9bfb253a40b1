"""Forward-pass FLOPs of a transformer, for both generator and judge."""

from __future__ import annotations

from typing import TypeVar

from deepprune.core.protocols import FloatArray

Tokens = TypeVar("Tokens", float, FloatArray)


def transformer_flops(
    n_params: float, n_layers: int, hidden: int, n_tokens: Tokens, *, causal: bool = True
) -> Tokens:
    """Return the FLOPs of reading or generating ``n_tokens`` tokens: ``2 P T + a L d T^2``.

    ``2 P T`` is one multiplication and one addition per weight and token (Kaplan et al. 2020,
    section 2.1, https://arxiv.org/abs/2001.08361). Attention adds the products ``Q K^T`` and
    ``A V``, ``2 T^2 d`` FLOPs each per layer: ``a = 4`` if every token sees every token, and half
    of that, ``a = 2``, if a token sees only those before it. Decoding token by token with a KV
    cache costs the same as one causal pass over all of them.

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
    attention = (2.0 if causal else 4.0) * n_layers * hidden * n_tokens**2
    return 2.0 * n_params * n_tokens + attention
