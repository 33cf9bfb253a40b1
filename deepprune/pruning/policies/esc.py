"""ESC, early-stopping self-consistency: sample in windows until a whole window agrees.

Li et al. 2024, "Escape Sky-high Cost" (https://arxiv.org/abs/2401.10480), ICLR. Default: windows of
5, as in the paper's figure 1. Departures:

- At most ``cap`` traces, or all N of the question, and the last window may be shorter; it then only
  votes. (The ESC in zhengkid/Parallel-Probe drops a last window that would not be full.)
- A trace without an answer agrees with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from deepprune.core.options import Count, Ge, checked
from deepprune.core.protocols import Evidence, IntArray, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER
from deepprune.pruning.at_once import Runs, in_waves
from deepprune.pruning.voting import plurality


@checked
@dataclass(frozen=True, slots=True)
class ESC:
    """Runs windows of traces to their end until one gives a single answer, which it returns.

    Without such a window all traces vote.

    Attributes:
        window: Traces of a window, sampled side by side.
        cap: Most traces to sample; ``None`` for all N.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    window: Annotated[int, Ge(2)] = 5
    cap: Count | None = None
    name: str = "esc"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        cap = min(self.cap or n_traces, n_traces)
        started = 0
        while True:
            seen = yield Step(start=min(self.window, cap - started))
            answers = seen.answer_class.tolist()
            first, started = started, len(answers)
            window = answers[first:]
            if len(window) == self.window and {NO_ANSWER} != set(window) == {window[0]}:
                return plurality(answers, range(first, started))
            if started == cap:
                return plurality(answers, range(cap))

    def at_once(self, lengths: IntArray, answers: IntArray, mean_length: float | None) -> Runs:
        n_runs, n = lengths.shape
        cap = min(self.cap or n, n)
        first, last = np.zeros(n_runs, dtype=np.int64), np.full(n_runs, cap)
        is_open = np.ones(n_runs, dtype=bool)
        for begin in range(0, cap - self.window + 1, self.window):
            window = answers[:, begin : begin + self.window]
            agrees = (window == window[:, :1]).all(1) & (window[:, 0] != NO_ANSWER) & is_open
            first[agrees], last[agrees] = begin, begin + self.window
            is_open &= ~agrees
        return in_waves(lengths, answers, self.window, first, last)
