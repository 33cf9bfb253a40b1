"""One question pruned while it is generated, and its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import numpy as np

from deepprune.core.protocols import Policy, Session
from deepprune.core.seeding import derive, generator
from deepprune.core.types import (
    NO_ANSWER,
    FinishReason,
    ForcedAnswer,
    Question,
    Trace,
    Vote,
    answers_of,
)
from deepprune.evaluation.ledger import GeneratorSize, Ledger
from deepprune.evaluation.saving import estimated_saving, generator_flops
from deepprune.evaluation.watcher import Watcher
from deepprune.judge.base import Judge
from deepprune.live.guard import GuardedEvidence, JudgeWorker
from deepprune.live.question import LiveQuestion, LiveResult
from deepprune.pruning.controller import Outcome, run_question
from deepprune.traces.tokens import token_ends

OpenSession = Callable[[Question, str, int, int], Session]
"""Begins a question: question, model, N (the most traces) and seed."""


@dataclass(frozen=True)
class Pruned:
    """The result of one question.

    Attributes:
        row: Its line of ``results.jsonl``.
        traces: All traces, as far as they were generated.
        live: The question as watchers know it.
        error: The error that ended it before its vote, or an interrupt right after.
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
        model: Name of the generating model.
        policy: Decides which traces are stopped.
        judge: Scores pairs; ``None`` for a policy that asks none.
        worker: Thread in which the judge computes.
        n_traces: N.
        seed: Seed of the traces and of the policy's draws.
        size: Size of the generator; ``None`` if unknown: no net saving is claimed then.
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
        mean_length: float | None = None,
    ) -> Pruned:
        """Prune one question; all that was generated is returned, whatever happens.

        Args:
            question: The question.
            watchers: Receive the events.
            interruptible: Context of the generation, in which a caller that defers interrupts
                admits them.
            mean_length: Expected tokens of a whole trace, see `Evidence.mean_length`.
        """
        session = self.open(question, self.model, self.n_traces, derive(self.seed, 0))
        evidence = GuardedEvidence(self.judge, session, self.worker, mean_length)
        live = LiveQuestion(question, self.n_traces, session, evidence)
        for watcher in watchers:
            watcher.on_question_start(live)

        def tell(hook: str, *facts: object) -> None:
            for watcher in (live, *watchers):
                getattr(watcher, hook)(live, *facts)

        rng = generator(self.seed, *question.key, self.model, 0, "policy")
        error: BaseException | None = None
        outcome: Outcome | None = None
        try:
            with interruptible():
                outcome = run_question(self.policy, session, self.n_traces, evidence, rng, tell)
        except AssertionError:
            raise
        except BaseException as raised:  # raised by the caller, once all is stored
            error = raised
        if outcome is not None and (lost := _lost_answers(outcome)):
            outcome = None
            error = RuntimeError(
                f"{self.policy.name} gave no answer although {lost} traces finished with one: this "
                "is an error of deepprune or of the policy, please report it"
            )
        try:
            traces = session.traces()
        except BaseException as raised:  # an interrupt, or answers cannot be compared any more
            traces = tuple(session.records())
            outcome, error = None, error or raised
        row = self._row(live, outcome, traces, error) | {"mean_length": mean_length}
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

    def _row(
        self,
        live: LiveQuestion,
        outcome: Outcome | None,
        traces: Sequence[Trace],
        error: BaseException | None,
    ) -> LiveResult:
        status, reason = "ok", None
        if outcome is None:
            status, reason = "interrupted", "the run was interrupted"
            if isinstance(error, Exception):
                status, reason = "failed", " ".join(str(error).split()) or type(error).__name__
        return {
            "dataset": live.question.dataset,
            "question_id": live.question.question_id,
            "question": live.question.text,
            "model": self.model,
            "policy": self.policy.name,
            "judge": self._judge_name,
            "n_traces": self.n_traces,
            "seed": self.seed,
            "status": status,
            "reason": reason,
            **_result(outcome, traces, live.question.gold),
            "fallback": live.fallback,
            "decisions": [asdict(decision) for decision in live.decisions],
            **_cost(live, traces, self.size, outcome is not None),
            "seconds": live.seconds if outcome is None else outcome.usage.seconds,
        }


def _lost_answers(outcome: Outcome) -> int:
    """Count the finished traces with an answer if the vote has none."""
    if outcome.vote.answer_class != NO_ANSWER:
        return 0
    final = outcome.final
    return int(np.count_nonzero(final.is_finished & (final.answer_class != NO_ANSWER)))


def _result(outcome: Outcome | None, traces: Sequence[Trace], gold: str | None) -> LiveResult:
    """Return the columns of the answer and the votes."""
    vote = Vote(NO_ANSWER, {}, ()) if outcome is None else outcome.vote
    first: dict[int, Trace | ForcedAnswer] = {}
    for one in answers_of(traces):
        first.setdefault(one.answer_class, one)
    winner = first.get(vote.answer_class)
    is_right = None if gold is None else bool(winner and winner.is_correct)
    return {
        "answer": None if winner is None else winner.answer,
        "answer_class": vote.answer_class,
        "weights": [
            {"answer": first[k].answer if k in first else None, "class": k, "weight": weight}
            for k, weight in sorted(vote.weights.items(), key=lambda item: -item[1])
        ],
        "voters": list(vote.voters),
        "gold": gold,
        "is_correct": None if outcome is None else is_right,
    }


def _cost(
    live: LiveQuestion, traces: Sequence[Trace], size: GeneratorSize | None, is_decided: bool
) -> LiveResult:
    """Return the columns of the cost; a question without a vote has saved nothing.

    Of stopped traces all generated tokens count, as in the engine.
    """
    (prompt,) = token_ends([live.question.text])
    ledger = None if size is None else Ledger(size, len(prompt))
    usage = live.session.usage
    n_calls, judge_tokens, judge_flops = live.evidence.bill.tolist()
    n_tokens = np.array([t.n_tokens for t in traces], dtype=np.float64)
    failed = np.array([t.finish_reason is FinishReason.FAILED for t in traces], dtype=bool)
    cut = np.array([t.finish_reason.is_open for t in traces], dtype=bool)
    finished = ~failed & ~cut
    saving = None
    if is_decided:
        saving = estimated_saving(
            n_tokens, finished, failed, live.n_traces, usage, ledger, judge_flops
        )
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
        "judge_calls": int(n_calls),
        "judge_tokens": int(judge_tokens),
        "judge_flops": judge_flops,
        "judge_seconds": live.evidence.seconds,
    }
