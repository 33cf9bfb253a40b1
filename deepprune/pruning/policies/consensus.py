"""Consensus sampling, cons@k: sample k traces, vote. The baseline of every other policy.

Wang et al. 2022, self-consistency (https://arxiv.org/abs/2203.11171).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepprune.core.options import Count, checked
from deepprune.core.protocols import Evidence, IntArray, Need, PolicyRun, Step
from deepprune.pruning.at_once import Runs, in_waves
from deepprune.pruning.voting import plurality


@checked
@dataclass(frozen=True, slots=True)
class Consensus:
    """Runs ``k`` traces to their end and takes the plurality vote.

    Attributes:
        k: Traces to sample, at most the N of the question; ``None`` for all N.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    k: Count | None = None
    name: str = "consensus"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        k = min(self.k or n_traces, n_traces)
        seen = yield Step(start=k)
        return plurality(seen.answer_class.tolist(), range(k))

    def at_once(self, lengths: IntArray, answers: IntArray, mean_length: float | None) -> Runs:
        n_runs, n = lengths.shape
        first = np.zeros(n_runs, dtype=np.int64)
        return in_waves(lengths, answers, n, first, first + min(self.k or n, n))
