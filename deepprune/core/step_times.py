"""Duration of an engine's steps: a model of three costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from deepprune.core.flops import Tokens
from deepprune.core.options import Ge, Gt, checked
from deepprune.core.protocols import FloatArray, IntArray


@checked
@dataclass(frozen=True, slots=True)
class StepTimes:
    """Step times of an engine: ``t(n, KV) = max(weights, n x compute) + KV x read``.

    A step that generates one token of each of n traces reads every weight once, multiplies it with
    n tokens meanwhile, and reads the keys and values of the KV tokens that those attend to. This is
    the roofline of one decoding step (Pope et al. 2022, section 3, https://arxiv.org/abs/2211.05102)
    without what an engine spends between steps. A prompt of n tokens is one such step without KV.

    Attributes:
        weights_s: Reading the weights, in seconds a step.
        compute_s: Computing, in seconds a token.
        kv_s: Reading keys and values, in seconds a cached token.
        flops_per_s: Rate at which a judge computes on the same hardware, in FLOPs a second.
        name: Name in results.
    """

    weights_s: Annotated[float, Gt(0)]
    compute_s: Annotated[float, Ge(0)]
    kv_s: Annotated[float, Ge(0)]
    flops_per_s: Annotated[float, Gt(0)]
    name: str = ""

    def decode(self, n_tokens: IntArray) -> FloatArray:
        """Return the seconds in which traces that begin together generate their tokens.

        Keys and values are not counted.

        Args:
            n_tokens: Tokens of each trace, shape ``(..., N)``; those with 0 do not run.

        Returns:
            Shape ``(...)``.
        """
        return np.asarray(self.weights_s * n_tokens.max(-1, initial=0) + self.beyond(n_tokens))

    def beyond(self, n_tokens: IntArray) -> FloatArray | float:
        """Return the part of `decode` by which computing takes longer than reading the weights.

        Of the n longest traces, exactly these n run from the end of the next shorter one on.
        """
        n = n_tokens.shape[-1]
        if n * self.compute_s <= self.weights_s:
            return 0.0
        steps = np.diff(np.sort(n_tokens, axis=-1), axis=-1, prepend=0)  # of n traces, n - 1, ... 1
        longer = np.maximum(0, np.arange(n, 0, -1) * self.compute_s - self.weights_s)
        return np.asarray(steps @ longer)

    def seconds(self, decoding: Tokens, context: Tokens, prompt: int) -> Tokens:
        """Return the seconds of a question.

        Args:
            decoding: Of its steps, see `decode`, shape ``(...)``.
            context: Tokens that its tokens attended to, see `flops.attended`, ``(...)``.
            prompt: Tokens of the prompt, which is read once.
        """
        reading = max(self.weights_s, prompt * self.compute_s) if prompt else 0.0
        return reading + decoding + self.kv_s * context


ONE_SECOND = StepTimes(1.0, 0.0, 0.0, np.inf, "1 s a step")
"""For tests: the clock counts steps."""
