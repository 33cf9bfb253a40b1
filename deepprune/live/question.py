"""The state of a question while it is pruned."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepprune.core.protocols import Observation, Session, Status, Step, TraceState
from deepprune.core.types import NO_ANSWER, Decision, Question
from deepprune.evaluation.ledger import Ledger
from deepprune.evaluation.saving import Saving, estimated_saving
from deepprune.evaluation.watcher import Watcher
from deepprune.live.guard import GuardedEvidence

LiveResult = dict[str, Any]
"""The line of ``results.jsonl`` of a question that was pruned live."""


@dataclass
class LiveQuestion(Watcher):
    """A question while it is pruned, as watchers see it; any thread may read it.

    Attributes:
        question: Text, data set and gold answer.
        n_traces: N.
        session: Its traces.
        evidence: The judge's scores and their cost.
        ledger: FLOPs of the generator; ``None`` if its size is unknown.
        decisions: The traces stopped so far.
        seen: The last checkpoint; ``None`` before the first.
        fallback: Why all traces continue unpruned; ``None`` while the policy decides.
        began: Start of the question, on the monotonic clock.
    """

    question: Question
    n_traces: int
    session: Session
    evidence: GuardedEvidence
    ledger: Ledger | None
    decisions: list[Decision] = field(default_factory=list)
    seen: Observation | None = None
    fallback: str | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the question began."""
        return time.monotonic() - self.began

    def on_checkpoint(self, at: LiveQuestion, step: Step, seen: Observation) -> None:
        self.seen = seen

    def on_decision(self, at: LiveQuestion, decision: Decision) -> None:
        self.decisions.append(decision)

    def on_fallback(self, at: LiveQuestion, reason: str) -> None:
        self.fallback = reason

    def vote(self) -> list[tuple[str, int]]:
        """Count the traces per answer at the last checkpoint, most frequent answer first.

        Equivalent answers are one, spelled as the first of them.
        """
        if (seen := self.seen) is None:
            return []
        counts = Counter(seen.answer_class[seen.is_finished].tolist())
        del counts[NO_ANSWER]
        spelled = self.session.answers()
        return [(spelled.get(k, "?"), n) for k, n in counts.most_common()]

    def saving(self, states: Sequence[TraceState]) -> Saving | None:
        """Estimate the saving if nothing more is stopped, see `Saving`.

        Running traces count with the mean length of the finished ones.
        """
        tokens = np.array([s.n_tokens for s in states], dtype=np.float64)
        status = np.array([s.status.value for s in states])
        finished = status == Status.FINISHED.value
        if not finished.any():
            return None
        longer = np.maximum(tokens, tokens[finished].mean())
        return estimated_saving(
            np.where(status == Status.RUNNING.value, longer, tokens),
            finished,
            status == Status.FAILED.value,
            self.n_traces,
            self.session.usage,
            self.ledger,
            float(self.evidence.bill[2]),
        )
