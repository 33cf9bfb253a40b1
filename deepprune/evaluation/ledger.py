"""What a question cost: tokens by kind, FLOPs of the generator and of the judge, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepprune.errors import InputError
from deepprune.flops import transformer_flops
from deepprune.judge.base import JudgeCost
from deepprune.pruning.controller import Outcome


@dataclass(frozen=True, slots=True)
class GeneratorSize:
    """The size of a generator, for its FLOPs.

    Attributes:
        params: Weights that a token is multiplied with: without an input embedding table that is
            not the output head as well; of a mixture of experts the active ones.
        layers: Transformer layers.
        hidden: Attention width, heads x head size.
    """

    params: float
    layers: int
    hidden: int


def generator_size(model: str, known: Mapping[str, GeneratorSize]) -> GeneratorSize:
    """The size of ``model``.

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
class Bill:
    """The cost of one question under one policy.

    Attributes:
        tokens_finished: Tokens of traces that ran to their end.
        tokens_pruned: Tokens of traces that were stopped: their prefixes.
        tokens_probes: Tokens of forced answers; 0 for engines and policies without probes.
        generator_flops: Decoding of all tokens above, attention included; the prompt, which all
            traces share, is left out.
        judge: What the judge cost had this policy run alone, with nothing cached.
        seconds: On the engine's clock; virtual in a replay.
    """

    tokens_finished: int
    tokens_pruned: int
    tokens_probes: int
    generator_flops: float
    judge: JudgeCost
    seconds: float

    @property
    def tokens(self) -> int:
        """All generated tokens."""
        return self.tokens_finished + self.tokens_pruned + self.tokens_probes


def draw_bill(outcome: Outcome, judge: JudgeCost, size: GeneratorSize) -> Bill:
    """The bill of an outcome; its token kinds add up to the engine's own count."""
    n_tokens, is_finished = outcome.final.n_tokens, outcome.final.is_finished
    flops = sum(
        transformer_flops(size.params, size.layers, size.hidden, int(n), causal=True)
        for n in n_tokens
    )
    bill = Bill(
        tokens_finished=int(n_tokens[is_finished].sum()),
        tokens_pruned=int(n_tokens[~is_finished].sum()),
        tokens_probes=0,
        generator_flops=flops,
        judge=judge,
        seconds=outcome.seconds,
    )
    assert bill.tokens == outcome.tokens_generated, "the ledger does not add up"
    return bill
