"""Adaptive consistency: sample until the votes so far decide the question.

Aggarwal et al. 2023, "Let's Sample Step by Step" (https://arxiv.org/abs/2305.11860). Defaults: the
beta criterion at .95, one trace at a time. Departures:

- The paper samples at most 40 traces; here at most ``cap``, or all N of the question.
- A trace without an answer does not vote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from deepprune.core.options import Count, Share, checked
from deepprune.core.protocols import Evidence, IntArray, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER
from deepprune.pruning.at_once import Runs, in_waves, one_hot
from deepprune.pruning.stopping import is_decided
from deepprune.pruning.voting import plurality


@checked
@dataclass(frozen=True, slots=True)
class AdaptiveConsistency:
    """Samples in waves that run to their end; after each, stops once the answers so far decide.

    Attributes:
        stop_confidence: In [0, 1]: value that the criterion has to reach.
        cap: Most traces to sample; ``None`` for all N.
        wave: Traces sampled side by side. One saves most tokens, more save time.
        rule: The criterion, see `pruning.stopping`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    stop_confidence: Share = 0.95
    cap: Count | None = None
    wave: Count = 1
    rule: Literal["beta", "dirichlet", "majority", "entropy"] = "beta"
    name: str = "adaptive_consistency"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        cap = min(self.cap or n_traces, n_traces)
        counts: dict[int, int] = {}
        started = 0
        while True:
            seen = yield Step(start=min(self.wave, cap - started))
            wave = seen.answer_class[started:].tolist()
            started += len(wave)
            for answer in wave:
                if answer != NO_ANSWER:
                    counts[answer] = counts.get(answer, 0) + 1
            if started == cap or is_decided(counts.values(), self.rule, self.stop_confidence):
                return plurality(seen.answer_class.tolist(), range(started))

    def at_once(self, lengths: IntArray, answers: IntArray, mean_length: float | None) -> Runs:
        n_runs, n = lengths.shape
        cap = min(self.cap or n, n)
        counts = one_hot(answers).cumsum(1)  # votes of each class after each trace, (R, N, C)
        last = np.full(n_runs, cap)
        for run in range(n_runs):
            for started in range(self.wave, cap, self.wave):
                votes = counts[run, started - 1]
                if is_decided(votes[votes > 0].tolist(), self.rule, self.stop_confidence):
                    last[run] = started
                    break
        return in_waves(lengths, answers, self.wave, np.zeros(n_runs, dtype=np.int64), last)
