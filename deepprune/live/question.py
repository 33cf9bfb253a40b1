"""The state of a question while it is pruned."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepprune.core.protocols import Observation, Session, Status, Step, TraceState
from deepprune.core.types import NO_ANSWER, Decision, Question
from deepprune.evaluation.ledger import Ledger
from deepprune.evaluation.saving import Saving, estimated_saving
from deepprune.live.guard import GuardedEvidence

LiveResult = dict[str, Any]
"""The line of ``results.jsonl`` of a question that was pruned live."""


class LiveQuestion:
    """A question while it is pruned, as watchers see it; any thread may read it.

    Attributes:
        question: What is asked.
        n_traces: N.
        decisions: The traces stopped so far.
        seen: The last checkpoint; ``None`` before the first.
        fallback: Why all traces go on unpruned; ``None`` while the policy decides.
        judge_flops: The judge's bill so far.
    """

    def __init__(
        self,
        question: Question,
        n_traces: int,
        session: Session,
        evidence: GuardedEvidence,
        ledger: Ledger | None,
    ) -> None:
        self.question = question
        self.n_traces = n_traces
        self.decisions: list[Decision] = []
        self.seen: Observation | None = None
        self.fallback: str | None = None
        self._session = session
        self._evidence = evidence
        self._ledger = ledger
        self._answers: dict[int, str | None] = {}
        self._billed = 0
        self.judge_flops = 0.0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the question began."""
        return time.monotonic() - self._began

    @property
    def judge_scores(self) -> int:
        """Pairs that the judge has scored so far, the same pair counted each time."""
        return self._evidence.n_scores

    @property
    def judge_seconds(self) -> float:
        """Time spent waiting for the judge."""
        return self._evidence.seconds

    def on_checkpoint(self, step: Step, seen: Observation) -> None:
        """Keep the checkpoint."""
        self.seen = seen
        self._update_judge_flops()

    def on_decision(self, decision: Decision) -> None:
        """Keep a decision to stop a trace."""
        self.decisions.append(decision)
        self._update_judge_flops()

    def on_fallback(self, reason: str) -> None:
        """Keep the reason why all traces run to their end."""
        self.fallback = reason

    def _update_judge_flops(self) -> None:
        """Update ``judge_flops``. Call only while the judge is idle."""
        if self._billed != self._evidence.n_scores:
            self._billed = self._evidence.n_scores
            self.judge_flops = float(self._evidence.bill[2])

    def states(self) -> list[TraceState]:
        """All started traces at this moment; of a replay at its last checkpoint."""
        return self._session.states()

    def answer(self, trace: int, state: TraceState) -> str | None:
        """The answer of a finished trace, before a checkpoint counts it; for views."""
        if state.status is not Status.FINISHED:
            return None
        if trace not in self._answers:
            self._answers[trace] = self._session.answer(trace)
        return self._answers[trace]

    def vote(self) -> list[tuple[str, int]]:
        """Number of traces per answer at the last checkpoint, most frequent first.

        Equivalent answers are one, spelled as the first of them.
        """
        if (seen := self.seen) is None:
            return []
        finished = np.flatnonzero(seen.is_finished & (seen.answer_class != NO_ANSWER)).tolist()
        classes = seen.answer_class.tolist()
        spelled = self._session.answers()
        counts = Counter(classes[i] for i in finished)
        return [(spelled.get(k, "?"), n) for k, n in counts.most_common()]

    def saving(self, states: Sequence[TraceState]) -> Saving | None:
        """The saving if nothing more is stopped: an estimate, see `Saving`.

        Running traces count with the mean length of the finished ones.
        """
        tokens = np.array([s.n_tokens for s in states], dtype=np.float64)
        running, finished, failed = (
            np.array([s.status is status for s in states], dtype=bool)
            for status in (Status.RUNNING, Status.FINISHED, Status.FAILED)
        )
        if not finished.any():
            return None
        expected = np.where(running, np.maximum(tokens, tokens[finished].mean()), tokens)
        return estimated_saving(
            expected,
            finished,
            failed,
            self.n_traces,
            self._session.usage,
            self._ledger,
            self.judge_flops,
        )
