"""A question as it goes on: what is known of it at any moment, and who is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from deepprune.answers.extract import extract_answer
from deepprune.core.protocols import Observation, Session, Step
from deepprune.core.types import NO_ANSWER, Decision, FinishReason, Question
from deepprune.evaluation.ledger import Ledger
from deepprune.evaluation.saving import Saving, estimated_saving
from deepprune.generation.live_session import LiveSession
from deepprune.generation.live_trace import Status, TraceState
from deepprune.live.guard import GuardedEvidence

LiveResult = dict[str, Any]
"""The line of ``results.jsonl`` of a question that was pruned live."""

_TAIL = 100
"""Characters of a replayed trace's last text."""


class LiveQuestion:
    """A question as it goes on, for those who watch it; any thread may read it.

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
        answer_style: str,
    ) -> None:
        self.question = question
        self.n_traces = n_traces
        self.decisions: list[Decision] = []
        self.seen: Observation | None = None
        self.fallback: str | None = None
        self._session = session
        self._evidence = evidence
        self._ledger = ledger
        self._style = answer_style
        self._answers: dict[int, str | None] = {}
        self._billed = 0
        self.judge_flops = 0.0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the question began."""
        return time.monotonic() - self._began

    @property
    def judge_scores(self) -> int:
        """Pairs that the judge has scored so far, the same pair counted each time."""
        return self._evidence.n_scores

    @property
    def judge_seconds(self) -> float:
        """Time spent waiting for the judge."""
        return self._evidence.seconds

    def draw_bill(self) -> None:
        """Bring ``judge_flops`` up to date; while the judge is idle."""
        if self._billed != self._evidence.n_scores:
            self._billed = self._evidence.n_scores
            self.judge_flops = float(self._evidence.bill[2])

    def states(self) -> list[TraceState]:
        """All started traces at this moment; of a replay at its last checkpoint."""
        if isinstance(self._session, LiveSession):
            return self._session.states()
        if self.seen is None:
            return []
        return [self._replayed(self.seen, trace) for trace in range(len(self.seen.n_tokens))]

    def _replayed(self, seen: Observation, trace: int) -> TraceState:
        prefix, status = self._session.prefix(trace), Status.RUNNING
        if seen.is_stopped[trace]:
            status = Status.STOPPED
        elif seen.is_finished[trace]:
            is_failed = prefix.trace.finish_reason is FinishReason.FAILED
            status = Status.FAILED if is_failed else Status.FINISHED
        return TraceState(int(seen.n_tokens[trace]), status, prefix.text[-_TAIL:])

    def answer(self, trace: int, state: TraceState) -> str | None:
        """What a finished trace answers, before a checkpoint counts it; for views."""
        if state.status is not Status.FINISHED:
            return None
        if trace not in self._answers:
            if isinstance(self._session, LiveSession):
                self._answers[trace] = extract_answer(state.tail, self._style)
            else:
                self._answers[trace] = self._session.prefix(trace).trace.answer
        return self._answers[trace]

    def vote(self) -> list[tuple[str, int]]:
        """How many traces gave each answer by the last checkpoint, the most first.

        Equal answers are one, as it was spelled first.
        """
        if (seen := self.seen) is None:
            return []
        finished = np.flatnonzero(seen.is_finished & (seen.answer_class != NO_ANSWER)).tolist()
        classes = seen.answer_class.tolist()
        if isinstance(self._session, LiveSession):
            spelled = self._session.answers()
        else:
            answers = ((i, self._session.prefix(i).trace.answer) for i in reversed(finished))
            spelled = {classes[i]: answer for i, answer in answers if answer is not None}
        counts = Counter(classes[i] for i in finished)
        return [(spelled.get(k, "?"), n) for k, n in counts.most_common()]

    def saving(self, states: Sequence[TraceState]) -> Saving | None:
        """What will have been saved as things stand: an estimate, see `Saving`.

        Running traces are taken to run on as long as the mean of those that have finished.
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


class LiveWatcher(Protocol):
    """Sees questions as they go on; called from the thread that runs them."""

    def on_question_start(self, live: LiveQuestion) -> None:
        """The first traces are about to start."""
        ...

    def on_checkpoint(self, live: LiveQuestion, step: Step, seen: Observation) -> None:
        """All running traces have reached ``step.until``."""
        ...

    def on_decision(self, live: LiveQuestion, decision: Decision) -> None:
        """A trace is about to be stopped."""
        ...

    def on_fallback(self, live: LiveQuestion, reason: str) -> None:
        """The judge has failed; all traces are about to go on to their end, unpruned."""
        ...

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        """The question is on record."""
        ...
