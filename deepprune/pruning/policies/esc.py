"""ESC, early-stopping self-consistency: sample in windows until a whole window agrees.

Li et al. 2024, "Escape Sky-high Cost" (https://arxiv.org/abs/2401.10480), ICLR. Default: windows of
5, as in the paper's figure 1. Departures:

- At most ``cap`` traces, or all N of the question, and the last window may be shorter. (The ESC in
  zhengkid/Parallel-Probe drops a last window that would not be full.)
- A trace without an answer agrees with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepprune.core.protocols import Evidence, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER
from deepprune.pruning.voting import plurality


@dataclass(frozen=True, slots=True)
class ESC:
    """Runs windows of traces to their end until one window gives a single answer; then votes.

    Attributes:
        window: Traces of a window, sampled side by side.
        cap: Most traces to sample; ``None`` for all N.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    window: int = 5
    cap: int | None = None
    name: str = "esc"

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(
                f"window must be at least 2, got {self.window}: one trace always agrees with "
                "itself; for a single trace take consensus with k = 1."
            )
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap must be at least 1, got {self.cap}; null samples up to N.")

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        """Sample a window, stop or go on; vote over all that were sampled."""
        cap = n_traces if self.cap is None else min(self.cap, n_traces)
        started = 0
        while True:
            seen = yield Step(start=min(self.window, cap - started))
            window = set(seen.answer_class[started:].tolist())
            started = len(seen.answer_class)
            if started == cap or (len(window) == 1 and NO_ANSWER not in window):
                return plurality(seen.answer_class.tolist(), range(started))
