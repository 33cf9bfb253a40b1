"""The state of a question while it is pruned."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from deepprune.core.protocols import Observation, Session, Step
from deepprune.core.types import NO_ANSWER, Decision, Question
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
        decisions: The traces stopped so far.
        seen: The last checkpoint; ``None`` before the first.
        fallback: Why all traces continue unpruned; ``None`` while the policy decides.
        began: Start of the question, on the monotonic clock.
    """

    question: Question
    n_traces: int
    session: Session
    evidence: GuardedEvidence
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
