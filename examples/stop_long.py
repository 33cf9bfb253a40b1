"""A policy: it decides for one question which traces start, which stop, and what the vote is."""

from dataclasses import dataclass
from typing import ClassVar

from deepprune.core.protocols import Need, Step
from deepprune.core.types import Decision, PrefixRule, StopReason
from deepprune.pruning.voting import plurality


@dataclass(frozen=True)
class StopLong:
    """Stops every trace that has not finished at the prefix."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    prefix: PrefixRule
    name: str = "stop_long"

    def run(self, n_traces, evidence, rng):
        seen = yield Step(start=n_traces, until=self.prefix)
        late = [i for i in range(n_traces) if not seen.is_finished[i]]
        seen = yield Step(stop=[Decision(i, StopReason.NOT_CHOSEN) for i in late])
        return plurality(seen.answer_class.tolist(), range(n_traces))
