"""One question pruned while it is generated: evidence that may fail, the bill, the record."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from deepprune.answers.equivalence import WorkerError
from deepprune.answers.extract import extract_answer
from deepprune.engines.backend import EngineError
from deepprune.engines.live_session import LiveSession
from deepprune.engines.live_trace import Status, TraceState
from deepprune.evaluation.ledger import GeneratorSize, Ledger
from deepprune.evaluation.results import Row
from deepprune.evaluation.scores import QuestionScores, RunEvidence
from deepprune.judge.base import Judge
from deepprune.judge.baselines import CoinJudge, OracleJudge
from deepprune.protocols import FloatArray, IntArray, Observation, Policy, Session, Step
from deepprune.pruning.controller import JudgeError, Outcome, run_question
from deepprune.seeding import derive, generator
from deepprune.traces.tokens import token_ends
from deepprune.types import (
    NO_ANSWER,
    Decision,
    FinishReason,
    Prefix,
    Question,
    Trace,
    Vote,
)

T = TypeVar("T")

_TAIL = 400  # characters


class JudgeWorker:
    """A thread in which the judge computes, so that one that hangs holds up nobody for long.

    It is a daemon: the process exits whatever the judge does. While an earlier call hangs, a new
    one fails at once.

    Args:
        timeout_s: The longest that one call may take, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._last: Future[Any] | None = None
        threading.Thread(target=self._work, name="deepprune-judge", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def call(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises.

        Raises:
            JudgeError: If it takes longer than ``timeout_s``, or an earlier call still does.
        """
        if self._last is not None and not self._last.done():
            raise JudgeError("the judge still hangs in an earlier call")
        future: Future[T] = Future()
        self._last = future

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # for the caller
                future.set_exception(error)

        self._jobs.put(job)
        try:
            return future.result(self.timeout_s)
        except TimeoutError:
            if future.done():  # just now, or it is the judge's own
                return future.result()
            raise JudgeError(
                f"the judge took longer than prune.judge_timeout_s={self.timeout_s:g} seconds"
            ) from None


class GuardedEvidence:
    """``Evidence`` whose judge may fail: `JudgeError` then, and the controller goes on without it.

    Args:
        evidence: Asks the judge.
        worker: Where it computes.
        name: The judge's.
    """

    def __init__(self, evidence: RunEvidence, worker: JudgeWorker, name: str) -> None:
        self._evidence = evidence
        self._worker = worker
        self._name = name
        self.seconds = 0.0
        self.n_scores = 0

    def score(self, pairs: IntArray) -> FloatArray:
        """The judge's scores of pairs of trace indices, shape ``(P, 2)`` -> ``(P,)``.

        Raises:
            JudgeError: If the judge raises, gives what is no score, or takes too long.
            EngineError: If the engine is lost meanwhile.
        """
        began = time.monotonic()
        try:
            scores = self._worker.call(lambda: self._evidence.score(pairs))
        except (JudgeError, EngineError):
            raise
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise JudgeError(f"the judge {self._name!r} failed: {said}") from error
        finally:
            self.seconds += time.monotonic() - began
        self.n_scores += len(pairs)
        return scores

    def confidence(self, trace: int) -> FloatArray:
        """Token confidences of a trace so far."""
        return self._evidence.confidence(trace)

    @property
    def bill(self) -> FloatArray:
        """Calls, tokens and FLOPs of the scores that were given, see `RunEvidence`."""
        return self._evidence.bill


@dataclass(frozen=True, slots=True)
class Saving:
    """What a policy has saved against N traces that all run to their end: an estimate.

    Nobody knows how long the stopped traces would have become. A trace that did not come to its
    end, or was never started, is taken to run as long as the mean of those that did, and no shorter
    than it is.

    Attributes:
        tokens: What the N traces would have taken.
        gross: Share of these tokens that was not generated; probes count as generated.
        net: The same in FLOPs with the judge's counted; ``None`` for a generator of unknown size.
        flops: FLOPs of the N traces, likewise.
    """

    tokens: float
    gross: float
    net: float | None
    flops: float | None


def estimated_saving(
    n_tokens: FloatArray,
    is_finished: Sequence[bool],
    n_traces: int,
    *,
    tokens_probes: float = 0.0,
    size: GeneratorSize | None = None,
    prompt_tokens: int = 0,
    spent_flops: float = 0.0,
) -> Saving | None:
    """See `Saving`; ``None`` while no trace has come to its end.

    Args:
        n_tokens: Tokens of the started traces, shape ``(n,)``.
        is_finished: Which of them came to their end.
        n_traces: N.
        tokens_probes: Tokens of forced answers.
        size: The generator, for the net saving.
        prompt_tokens: Tokens of the question.
        spent_flops: FLOPs of generator and judge.
    """
    ended = np.asarray(is_finished, dtype=bool)
    if not ended.any():
        return None
    mean = n_tokens[ended].mean()
    whole = np.where(ended, n_tokens, np.maximum(n_tokens, mean))
    whole = np.append(whole, np.full(max(0, n_traces - len(n_tokens)), mean))
    tokens = float(whole.sum())
    gross = 1 - (float(n_tokens.sum()) + tokens_probes) / tokens if tokens else 0.0
    if size is None:
        return Saving(tokens, gross, None, None)
    flops = float(size.flops(whole).sum() + size.flops(np.array(float(prompt_tokens))))
    return Saving(tokens, gross, 1 - spent_flops / flops if flops else 0.0, flops)


class LiveQuestion:
    """A question as it goes on, for those who watch it; any thread may read it.

    Attributes:
        question: What is asked.
        n_traces: N.
        decisions: The traces stopped so far.
        seen: The last checkpoint; ``None`` before the first.
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
        status = np.select(
            [self.seen.is_stopped, self.seen.is_finished],
            [Status.STOPPED, Status.FINISHED],
            Status.RUNNING,
        )
        return [
            TraceState(n, Status(state), self._session.prefix(i).text[-_TAIL:])
            for i, (n, state) in enumerate(
                zip(self.seen.n_tokens.tolist(), status.tolist(), strict=True)
            )
        ]

    def answer(self, trace: int, state: TraceState) -> str | None:
        """What a finished trace answers, read from its end; for views."""
        if state.status is not Status.FINISHED:
            return None
        if trace not in self._answers:
            self._answers[trace] = extract_answer(state.tail, self._style)
        return self._answers[trace]

    def vote(self) -> list[tuple[str, int]]:
        """How many of the traces that have finished by now give each answer, the most first."""
        found = (self.answer(i, state) for i, state in enumerate(self.states()))
        return Counter(answer for answer in found if answer is not None).most_common()

    def saving(self, states: Sequence[TraceState]) -> Saving | None:
        """What will have been saved as things stand: an estimate, see `Saving`.

        Running traces are taken to run on as long as the mean of those that have finished.
        """
        tokens = np.array([s.n_tokens for s in states], dtype=np.float64)
        finished = [s.status is Status.FINISHED for s in states]
        if not any(finished):
            return None
        running = np.array([s.status is Status.RUNNING for s in states])
        expected = np.where(running, np.maximum(tokens, tokens[finished].mean()), tokens)
        usage = self._session.usage
        spent, size, prompt = 0.0, None, 0
        if self._ledger is not None:
            size, prompt = self._ledger.size, self._ledger.prompt_tokens
            probes = size.probe_flops(
                np.array(float(usage.tokens_probes)), np.array(usage.probe_context)
            )
            spent = float(size.flops(expected).sum() + size.flops(np.array(float(prompt))) + probes)
            spent += self.judge_flops
        return estimated_saving(
            expected,
            finished,
            self.n_traces,
            tokens_probes=usage.tokens_probes,
            size=size,
            prompt_tokens=prompt,
            spent_flops=spent,
        )


OpenSession = Callable[[Question, str, int, int], Session]
"""Begins a question: question, model, N, seed; see ``protocols.Engine.open``."""


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

    def on_question_end(self, live: LiveQuestion, row: Row) -> None:
        """The question is on record."""
        ...


@dataclass(frozen=True)
class Pruned:
    """A question that was pruned live, or tried to be.

    Attributes:
        row: Its line of ``results.jsonl``.
        traces: All that was generated.
        live: The question as watchers know it.
        error: What ended it before its vote.
    """

    row: Row
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
        answer_style: How traces state their answers, for the views.
    """

    open: OpenSession
    model: str
    policy: Policy
    judge: Judge | None
    worker: JudgeWorker
    n_traces: int
    seed: int
    size: GeneratorSize | None
    answer_style: str

    def prune(self, question: Question, watchers: Sequence[LiveWatcher] = ()) -> Pruned:
        """Do one question; whatever happens, what was generated is handed back."""
        names = (question.dataset, question.question_id, self.model)
        (prompt,) = token_ends([question.text])
        ledger = None if self.size is None else Ledger(self.size, len(prompt))
        session = self.open(question, self.model, self.n_traces, derive(self.seed, 0))
        judge = self._judge()
        evidence = GuardedEvidence(
            QuestionScores(judge).run(session), self.worker, judge.provenance.name
        )
        live = LiveQuestion(question, self.n_traces, session, evidence, ledger, self.answer_style)
        for watcher in watchers:
            watcher.on_question_start(live)
        rng = generator(self.seed, *names, 0, "policy")
        error: BaseException | None = None
        outcome: Outcome | None = None
        try:
            outcome = run_question(
                self.policy, session, self.n_traces, evidence, rng, _Watch(live, watchers)
            )
        except AssertionError:
            raise
        except BaseException as raised:  # the caller's, once all is stored
            error = raised
        traces = generated(session, live.decisions)
        row = {
            **self._facts(question, judge),
            **_status(error),
            **_result(outcome, traces, question),
            "decisions": [decision_facts(d) for d in live.decisions],
            **_bill(session, evidence, traces, self.n_traces, ledger),
            "seconds": live.seconds,
        }
        return Pruned(row, traces, live, error)

    @property
    def title(self) -> str:
        """What prunes, in words: policy, threshold, prefix, judge, model."""
        words = [self.policy.name]
        if (threshold := getattr(self.policy, "threshold", None)) is not None:
            words.append(f"{threshold:g}")
        if (rule := getattr(self.policy, "prefix", None)) is not None:
            words.append(f"@ {rule.kind} {rule.k:g}")
        judge = "" if self.judge is None else f", judge {self.judge.provenance.name}"
        return f"{' '.join(words)}{judge}, {self.model}, N = {self.n_traces}"

    def _judge(self) -> Judge:
        if getattr(self.policy, "judge", "") == "oracle":
            return OracleJudge()
        return self.judge or CoinJudge(self.seed)

    def _facts(self, question: Question, judge: Judge) -> Row:
        return {
            "dataset": question.dataset,
            "question_id": question.question_id,
            "question": question.text,
            "model": self.model,
            "policy": self.policy.name,
            "judge": None if self.judge is None else judge.provenance.name,
            "n_traces": self.n_traces,
            "seed": self.seed,
        }


class _Watch:
    """The controller's watcher: keeps what has happened, and tells everybody."""

    def __init__(self, live: LiveQuestion, watchers: Sequence[LiveWatcher]) -> None:
        self._live = live
        self._watchers = watchers

    def on_checkpoint(self, step: Step, seen: Observation) -> None:
        self._live.seen = seen
        self._live.draw_bill()
        for watcher in self._watchers:
            watcher.on_checkpoint(self._live, step, seen)

    def on_decision(self, decision: Decision) -> None:
        self._live.decisions.append(decision)
        self._live.draw_bill()
        for watcher in self._watchers:
            watcher.on_decision(self._live, decision)


def generated(session: Session, decisions: Sequence[Decision]) -> tuple[Trace, ...]:
    """All that a session has generated; of a replay what it has played."""
    if isinstance(session, LiveSession):
        try:
            return session.traces()
        except WorkerError:  # no answer can be compared any more; the traces count all the same
            return tuple(session.records())
    stopped = {decision.trace for decision in decisions}
    return tuple(_played(session.prefix(i), i in stopped) for i in range(session.n_started))


def _played(prefix: Prefix, is_stopped: bool) -> Trace:
    trace, n = prefix.trace, prefix.n_tokens
    if prefix.is_finished and not is_stopped:
        return trace
    confidence = trace.token_confidence
    return replace(
        trace,
        text=prefix.text,
        n_tokens=n,
        token_end=trace.token_end[:n],
        finish_reason=FinishReason.PRUNED if is_stopped else FinishReason.CUT,
        answer=None,
        answer_class=NO_ANSWER,
        is_correct=None if trace.is_correct is None else False,
        token_confidence=None if confidence is None else confidence[:n],
        probes=prefix.probes,
    )


def decision_facts(decision: Decision) -> dict[str, Any]:
    """A decision as plain values."""
    return {
        "trace": decision.trace,
        "reason": decision.reason.value,
        "cluster": decision.cluster,
        "by": decision.by,
        "score": decision.score,
    }


def _status(error: BaseException | None) -> Row:
    if error is None:
        return {"status": "ok", "reason": None}
    if isinstance(error, Exception):
        said = " ".join(str(error).split()) or type(error).__name__
        return {"status": "failed", "reason": said}
    return {"status": "interrupted", "reason": "the run was interrupted"}


def _result(outcome: Outcome | None, traces: Sequence[Trace], question: Question) -> Row:
    """The answer, and who voted for what."""
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
        "fallback": None if outcome is None else outcome.fallback,
    }


def _bill(
    session: Session,
    evidence: GuardedEvidence,
    traces: Sequence[Trace],
    n_traces: int,
    ledger: Ledger | None,
) -> Row:
    """What it cost; the engine counts of stopped traces all, and so does this."""
    usage, judge = session.usage, evidence.bill
    n_tokens = np.array([t.n_tokens for t in traces], dtype=np.float64)
    finished = np.array([not t.finish_reason.is_open for t in traces], dtype=bool)
    bill: Mapping[str, Any] = {}
    if ledger is not None:
        bill = ledger.bill(
            tokens_finished=n_tokens[finished].sum(),
            tokens_pruned=n_tokens[~finished].sum(),
            tokens_probes=np.array(float(usage.tokens_probes)),
            probe_context=np.array(usage.probe_context),
            trace_flops=ledger.size.flops(n_tokens).sum(),
            judge=judge,
        )
    flops = float(bill["generator_flops"]) if bill else None
    saving = estimated_saving(
        n_tokens,
        finished.tolist(),
        n_traces,
        tokens_probes=usage.tokens_probes,
        size=None if ledger is None else ledger.size,
        prompt_tokens=0 if ledger is None else ledger.prompt_tokens,
        spent_flops=0.0 if flops is None else flops + float(judge[2]),
    )
    stopped = sum(t.finish_reason is FinishReason.PRUNED for t in traces)
    return {
        "n_started": len(traces),
        "n_stopped": stopped,
        "n_finished": int(finished.sum()),
        "tokens": int(n_tokens.sum()) + usage.tokens_probes,
        "tokens_finished": int(n_tokens[finished].sum()),
        "tokens_pruned": int(n_tokens[~finished].sum()),
        "tokens_probes": usage.tokens_probes,
        "tokens_unpruned_estimated": None if saving is None else saving.tokens,
        "saving_estimated": None if saving is None else saving.gross,
        "net_saving_estimated": None if saving is None else saving.net,
        "generator_flops": flops,
        "flops_unpruned_estimated": None if saving is None else saving.flops,
        "judge_calls": int(judge[0]),
        "judge_tokens": int(judge[1]),
        "judge_flops": float(judge[2]),
        "judge_seconds": evidence.seconds,
    }
