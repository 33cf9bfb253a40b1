"""One question pruned while it is generated, and its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepprune.core.protocols import Policy, Session
from deepprune.core.seeding import derive, generator
from deepprune.core.types import NO_ANSWER, Decision, FinishReason, Question, Trace, Vote
from deepprune.evaluation.ledger import GeneratorSize, Ledger
from deepprune.evaluation.saving import estimated_saving, generator_flops
from deepprune.evaluation.scores import QuestionScores, RunEvidence
from deepprune.evaluation.watcher import Watcher
from deepprune.judge.base import Judge
from deepprune.live.guard import GuardedEvidence, JudgeWorker
from deepprune.live.question import LiveQuestion, LiveResult
from deepprune.pruning.controller import Outcome, run_question
from deepprune.traces.tokens import token_ends

OpenSession = Callable[[Question, str, int, int], Session]
"""Begins a question: question, model, N, seed; see ``protocols.Engine.open``."""


@dataclass(frozen=True)
class Pruned:
    """The result of one question.

    Attributes:
        row: Its line of ``results.jsonl``.
        traces: All that was generated.
        live: The question as watchers know it.
        error: What ended it before its vote, or an interrupt right after.
    """

    row: LiveResult
    traces: tuple[Trace, ...]
    live: LiveQuestion
    error: BaseException | None = None


@dataclass(frozen=True)
class LivePruner:
    """Prunes questions on an engine, one after the other, with one policy.

    Attributes:
        open: Begins a question on an engine.
        model: What it generates with.
        policy: Decides.
        judge: Scores pairs; ``None`` for a policy that asks none.
        worker: Where the judge computes.
        n_traces: N.
        seed: Decides the traces' seeds and the policy's draws.
        size: The generator's; ``None`` where unknown: no net saving is claimed then.
    """

    open: OpenSession
    model: str
    policy: Policy
    judge: Judge | None
    worker: JudgeWorker
    n_traces: int
    seed: int
    size: GeneratorSize | None

    def prune(
        self,
        question: Question,
        watchers: Sequence[Watcher] = (),
        interruptible: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Pruned:
        """Prune one question; what was generated is returned whatever happens.

        Args:
            question: The question.
            watchers: Receive the events.
            interruptible: Entered while traces are generated: a caller that holds interrupts back
                lets them come there.
        """
        names = (*question.key, self.model)
        (prompt,) = token_ends([question.text])
        ledger = None if self.size is None else Ledger(self.size, len(prompt))
        session = self.open(question, self.model, self.n_traces, derive(self.seed, 0))
        scores = None if self.judge is None else QuestionScores(self.judge)
        evidence = GuardedEvidence(RunEvidence(scores, session), self.worker, self._judge_name)
        live = LiveQuestion(question, self.n_traces, session, evidence, ledger)
        for watcher in watchers:
            watcher.on_question_start(live)

        def tell(hook: str, *facts: object) -> None:
            getattr(live, hook)(*facts)
            for watcher in watchers:
                getattr(watcher, hook)(live, *facts)

        rng = generator(self.seed, *names, 0, "policy")
        error: BaseException | None = None
        outcome: Outcome | None = None
        try:
            with interruptible():
                outcome = run_question(self.policy, session, self.n_traces, evidence, rng, tell)
        except AssertionError:
            raise
        except BaseException as raised:  # the caller's, once all is stored
            error = raised
        try:
            traces = session.traces()
        except BaseException as raised:  # an interrupt, or nobody compares answers any more
            traces = tuple(session.records())
            outcome, error = None, error or raised
        row = {
            **self._facts(question),
            **_status(error if outcome is None else None),
            **_result(outcome, traces, question),
            "fallback": live.fallback,
            "decisions": [decision_facts(d) for d in live.decisions],
            **_bill(session, evidence, traces, self.n_traces, ledger, outcome is not None),
            "seconds": live.seconds if outcome is None else outcome.usage.seconds,
        }
        return Pruned(row, traces, live, error)

    @property
    def title(self) -> str:
        """Policy, threshold, prefix, judge and model, in words."""
        words = [self.policy.name]
        if (threshold := getattr(self.policy, "threshold", None)) is not None:
            words.append(f"{threshold:g}")
        if (rule := getattr(self.policy, "prefix", None)) is not None:
            words.append(f"@ {rule.kind} {rule.k:g}")
        judge = "" if self.judge is None else f", judge {self._judge_name}"
        return f"{' '.join(words)}{judge}, {self.model}, N = {self.n_traces}"

    @property
    def _judge_name(self) -> str | None:
        return None if self.judge is None else self.judge.provenance.name

    def _facts(self, question: Question) -> LiveResult:
        return {
            "dataset": question.dataset,
            "question_id": question.question_id,
            "question": question.text,
            "model": self.model,
            "policy": self.policy.name,
            "judge": self._judge_name,
            "n_traces": self.n_traces,
            "seed": self.seed,
        }


def decision_facts(decision: Decision) -> dict[str, Any]:
    """A decision as plain values."""
    return {
        "trace": decision.trace,
        "reason": decision.reason.value,
        "cluster": decision.cluster,
        "by": decision.by,
        "score": decision.score,
    }


def _status(error: BaseException | None) -> LiveResult:
    if error is None:
        return {"status": "ok", "reason": None}
    if isinstance(error, Exception):
        said = " ".join(str(error).split()) or type(error).__name__
        return {"status": "failed", "reason": said}
    return {"status": "interrupted", "reason": "the run was interrupted"}


def _result(outcome: Outcome | None, traces: Sequence[Trace], question: Question) -> LiveResult:
    """The answer and the votes."""
    vote = Vote(NO_ANSWER, {}, ()) if outcome is None else outcome.vote
    said: dict[int, Trace] = {}
    for trace in traces:
        said.setdefault(trace.answer_class, trace)
    ranked = sorted(vote.weights.items(), key=lambda item: -item[1])
    winner = said.get(vote.answer_class) if vote.answer_class != NO_ANSWER else None
    is_right = None if question.gold is None else bool(winner and winner.is_correct)
    return {
        "answer": None if winner is None else winner.answer,
        "answer_class": vote.answer_class,
        "weights": [
            {"answer": said[k].answer if k in said else None, "class": k, "weight": weight}
            for k, weight in ranked
        ],
        "voters": list(vote.voters),
        "gold": question.gold,
        "is_correct": None if outcome is None else is_right,
    }


def _bill(
    session: Session,
    evidence: GuardedEvidence,
    traces: Sequence[Trace],
    n_traces: int,
    ledger: Ledger | None,
    is_decided: bool,
) -> LiveResult:
    """The cost. Of stopped traces all generated tokens count, as in the engine.

    A question without a vote has saved nothing.
    """
    usage, judge = session.usage, evidence.bill
    n_tokens = np.array([t.n_tokens for t in traces], dtype=np.float64)
    failed = np.array([t.finish_reason is FinishReason.FAILED for t in traces], dtype=bool)
    cut = np.array([t.finish_reason.is_open for t in traces], dtype=bool)
    finished = ~failed & ~cut
    judge_flops = float(judge[2])
    saving = None
    if is_decided:
        saving = estimated_saving(n_tokens, finished, failed, n_traces, usage, ledger, judge_flops)
    return {
        "n_started": len(traces),
        "n_stopped": sum(t.finish_reason is FinishReason.PRUNED for t in traces),
        "n_finished": int(finished.sum()),
        "n_failed": int(failed.sum()),
        "tokens": int(n_tokens.sum()) + usage.tokens_forced,
        "tokens_finished": int(n_tokens[finished].sum()),
        "tokens_pruned": int(n_tokens[cut].sum()),
        "tokens_failed": int(n_tokens[failed].sum()),
        "tokens_forced": usage.tokens_forced,
        "tokens_unpruned_estimated": None if saving is None else saving.tokens,
        "saving_estimated": None if saving is None else saving.gross,
        "net_saving_estimated": None if saving is None else saving.net,
        "generator_flops": None if ledger is None else generator_flops(ledger, n_tokens, usage),
        "flops_unpruned_estimated": None if saving is None else saving.flops,
        "judge_calls": int(judge[0]),
        "judge_tokens": int(judge[1]),
        "judge_flops": judge_flops,
        "judge_seconds": evidence.seconds,
    }
