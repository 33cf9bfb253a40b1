"""Parallel-Probe: stop once the vote over forced answers is stable, prune traces that deviate.

Zheng et al. 2026 (https://arxiv.org/abs/2602.03845; code zhengkid/Parallel-Probe, evaluation). The
rule is that of ``ParallelWithWarmupBurstAndPrune`` in method.py. The defaults are those of its main
table (evaluation_main_table.py: T = 40 repeats, which the first two probes cannot be, warm-up 15
counted from 0 after a first one, patience 7, 64 traces), whose rule is the same without a share or
a number of traces to keep:
``prune_share`` 0 and ``min_active`` 1. On Qwen3-8B and AIME 2024 with 64 traces they give .813 and
727 k tokens a question; the paper's table says .815 and 731 k. The class itself defaults to 18
stable checkpoints, warm-up 10, share .5, 3 disagreements, 3 traces to keep. Departures:

- A trace that gives no answer does not vote, so it counts neither for a majority nor in its share;
  it still counts as disagreeing with one. The code gives "no answer" votes like any other answer.
- A majority that replaces another one after the first two probes has to stand for 42 checkpoints,
  in the code for 41: about 90 tokens a question there, and the same votes.
- No bursts: every forced answer is a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from deepprune.core.options import Count, Ge, Share, checked
from deepprune.core.protocols import Evidence, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER, Decision, StopReason
from deepprune.pruning.voting import plurality


@checked
@dataclass(frozen=True, slots=True)
class ParallelProbe:
    """Forces answers at checkpoints; decides over the traces that are not pruned.

    Attributes:
        force_every: Tokens between checkpoints.
        stable: Checkpoints in a row with the same majority answer that stop all traces.
        warmup: Checkpoints at which nothing is stopped or pruned; a majority's row counts from the
            first checkpoint, a trace's disagreement only after the warm-up.
        prune_share: In [0, 1]: least share of the votes with which a majority makes others deviant.
        prune_after: Checkpoints in a row, counting those with such a majority, at which a trace
            has to disagree to be pruned.
        min_active: Traces, finished ones included, that are never pruned.
        k: Traces to start, at most the N of the question; ``None`` for all N.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FORCED_ANSWERS})

    force_every: Count = 500
    stable: Count = 42
    warmup: Annotated[int, Ge(0)] = 16
    prune_share: Share = 0.0
    prune_after: Count = 7
    min_active: Count = 1
    k: Count | None = None
    name: str = "parallel_probe"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        k = min(self.k or n_traces, n_traces)
        active = list(range(k))  # not pruned
        against = [0] * k  # checkpoints in a row at which a trace disagreed
        leader, in_a_row, checkpoint = NO_ANSWER, 0, 0
        seen = yield Step(start=k, until=self.force_every, force=active)
        while True:
            answers, finished = seen.forced_class.tolist(), seen.is_finished.tolist()
            running = [trace for trace in active if not finished[trace]]
            vote = plurality(answers, active)
            if not running:
                return vote
            checkpoint += 1
            in_a_row = in_a_row + 1 if vote.answer_class == leader else 1
            leader = vote.answer_class
            stop: list[Decision] = []
            if leader != NO_ANSWER and checkpoint > self.warmup:
                if in_a_row >= self.stable:
                    yield Step(stop=[Decision(trace, StopReason.DECIDED) for trace in running])
                    return vote
                share = vote.weights[leader] / sum(vote.weights.values())
                if share >= self.prune_share and len(active) > self.min_active:
                    for trace in running:
                        against[trace] = against[trace] + 1 if answers[trace] != leader else 0
                    deviant = [trace for trace in running if against[trace] >= self.prune_after]
                    deviant = deviant[: len(active) - self.min_active]
                    stop = [Decision(trace, StopReason.DEVIANT) for trace in deviant]
                    active = [trace for trace in active if trace not in deviant]
            seen = yield Step(stop=stop, until=self.force_every, force=active)
