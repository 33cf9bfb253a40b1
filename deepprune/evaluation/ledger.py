"""The cost of a question: tokens by kind, FLOPs of generator and judge, time, money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.flops import attended
from deepprune.core.options import Count, Ge, Gt, checked
from deepprune.core.protocols import FloatArray
from deepprune.pruning.controller import Outcome


@checked
@dataclass(frozen=True, slots=True)
class GeneratorSize:
    """The size of a generator, for its FLOPs, and its prices.

    Attributes:
        params: Weights that a token is multiplied with: without an input embedding table that is
            not also the output head; of a mixture of experts only the active ones.
        layers: Transformer layers.
        hidden: Attention width, heads x head size.
        window: Tokens that a layer with a sliding window attends to; ``None``: no such layer.
        windowed: Layers with a sliding window.
        usd_prompt: Price of a million prompt tokens; ``None`` if unknown.
        usd_generated: Price of a million generated tokens.
    """

    params: Annotated[float, Gt(0)]
    layers: Count
    hidden: Count
    window: Count | None = None
    windowed: Annotated[int, Ge(0)] = 0
    usd_prompt: float | None = None
    usd_generated: float | None = None

    def __post_init__(self) -> None:
        if self.windowed > self.layers or (self.windowed > 0) != (self.window is not None):
            raise ValueError(
                f"window and windowed go together, of up to {self.layers} layers; got "
                f"window={self.window}, windowed={self.windowed}"
            )

    def flops(self, n_tokens: FloatArray, before: float = 0.0) -> FloatArray:
        """Return the FLOPs of generating ``n_tokens`` tokens each after ``before`` others.

        See `flops.transformer_flops`; a layer with a window counts no pair beyond it.
        """
        near = np.array(0.0)
        if self.window is not None:
            near = attended(n_tokens, before, self.window)
        return self._flops(n_tokens, attended(n_tokens, before), near)

    def forced_flops(self, tokens: FloatArray, context: FloatArray) -> FloatArray:
        """Return the FLOPs of forced answers whose tokens attend to ``context`` tokens in total.

        Under a window each token attends to at most so many: exact unless some answers are forced
        inside the first window and others beyond it.
        """
        return self._flops(tokens, context, np.minimum(context, tokens * (self.window or 0)))

    def _flops(self, tokens: FloatArray, pairs: FloatArray, near: FloatArray) -> FloatArray:
        """Return ``2 P T`` and the attention to ``pairs`` of tokens, in a window to ``near``."""
        attention = (self.layers - self.windowed) * pairs + self.windowed * near
        return 2 * self.params * tokens + 4 * self.hidden * attention


def generator_size(model: str, known: Mapping[str, GeneratorSize]) -> GeneratorSize:
    """Return the size of ``model``.

    Raises:
        InputError: If ``known`` does not have it: a net saving would be a guess.
    """
    if model not in known:
        raise InputError(
            f"net savings need the generator's size, and {model!r} is not among "
            f'{sorted(known)}: give it with "generator={{params: 7.5e9, layers: 32, '
            'hidden: 4096}".'
        )
    return known[model]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Computes the costs of one question.

    A generator that shares the prompt among the traces of a question (prefix caching) reads it
    once; every token of a trace attends to it. A forced answer reads nothing anew, since its trace
    is cached, and generates its tokens, each of which attends to prompt and trace.

    Args:
        size: The generator.
        prompt_tokens: Tokens of the question's text; the chat template is not recorded.
        usd_judge: Price of a million judge tokens; ``None`` if unknown.
    """

    size: GeneratorSize
    prompt_tokens: int
    usd_judge: float | None = None

    def draw(self, outcome: Outcome, judge: FloatArray) -> dict[str, float]:
        """Return the bill of an outcome; its kinds of tokens add up to the engine's own count.

        ``judge`` are the judge's calls, tokens and FLOPs if this policy ran alone, without a cache.
        """
        final, usage = outcome.final, outcome.usage
        finished = int(final.n_tokens[final.is_finished].sum())
        bill = self.bill(
            tokens_finished=np.array(finished),
            tokens_pruned=final.n_tokens.sum() - finished,
            tokens_forced=np.array(usage.tokens_forced),
            forced_context=np.array(usage.forced_context),
            trace_flops=self.trace_flops(final.n_tokens.astype(np.float64)).sum(),
            judge=judge,
        )
        assert bill["tokens_finished"] + bill["tokens_pruned"] == usage.tokens, "the ledger is off"
        bill |= {"tokens_sequential": np.array(usage.tokens_sequential)}
        bill |= {"peak_traces": np.array(usage.peak_traces)}
        bill |= {"engine_seconds": np.array(usage.seconds)}
        return {name: value.item() for name, value in bill.items()}

    def trace_flops(self, n_tokens: FloatArray) -> FloatArray:
        """Return the FLOPs of generating traces of ``n_tokens`` tokens each after the prompt."""
        return self.size.flops(n_tokens, self.prompt_tokens)

    def flops(
        self, trace_flops: FloatArray, tokens_forced: FloatArray, forced_context: FloatArray
    ) -> FloatArray:
        """Return the FLOPs of the generator: prompt, traces and forced answers."""
        context = forced_context + self.prompt_tokens * tokens_forced
        forced = self.size.forced_flops(tokens_forced, context)
        return self.size.flops(np.array(float(self.prompt_tokens))) + trace_flops + forced

    def bill(
        self,
        *,
        tokens_finished: FloatArray,
        tokens_pruned: FloatArray,
        tokens_forced: FloatArray,
        forced_context: FloatArray,
        trace_flops: FloatArray,
        judge: FloatArray,
    ) -> dict[str, FloatArray]:
        """Return tokens, FLOPs and money of runs, shape ``(...)``; ``judge`` is ``(..., 3)``.

        ``cost`` is ``nan`` if a price is unknown.
        """
        generated = tokens_finished + tokens_pruned + tokens_forced
        prices = [self.size.usd_prompt, self.size.usd_generated, self.usd_judge]
        per_token = np.array([np.nan if p is None else p / 1e6 for p in prices])
        judged = np.where(judge[..., 1] > 0, judge[..., 1] * per_token[2], 0.0)
        return {
            "tokens_finished": tokens_finished,
            "tokens_pruned": tokens_pruned,
            "tokens_forced": tokens_forced,
            "generator_flops": self.flops(trace_flops, tokens_forced, forced_context),
            "judge_calls": judge[..., 0],
            "judge_tokens": judge[..., 1],
            "judge_flops": judge[..., 2],
            "cost": self.prompt_tokens * per_token[0] + generated * per_token[1] + judged,
        }
