"""Recorded traces served like a live engine, with a virtual clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from deepprune.core.flops import attended
from deepprune.core.options import Ge, checked
from deepprune.core.protocols import (
    ANY_FINISHED,
    BoolArray,
    FloatArray,
    IntArray,
    Observation,
    Status,
    TraceState,
    Until,
    Usage,
)
from deepprune.core.seeding import generator
from deepprune.core.step_times import ONE_SECOND, StepTimes
from deepprune.core.types import (
    NO_ANSWER,
    FinishReason,
    ForcedAnswer,
    Prefix,
    PrefixRule,
    QuestionTraces,
    Trace,
)

_CLAMPED = 400.0  # minus the mean of 20 log-probabilities of which one is clamped to -9999: 500
TAIL = 100
"""Characters of a trace's text that views show."""


@checked
class ReplayEngine:
    """Replays the recorded traces of one question.

    The traces start in an order drawn from the seed. Running traces advance in lock-step, one token
    each per step of the engine: ``tokens_sequential`` counts the steps, and the clock adds the time
    of each. An answer is reported only once its trace has ended, so a policy cannot tell a
    recording from a live engine.

    A forced answer is the one recorded at the checkpoint, or last before it. All those of a
    checkpoint run side by side: they take ``tokens_per_forced_answer`` steps.

    Args:
        group: The traces.
        prompt_tokens: Tokens of the question's prompt, which the clock counts.
        steps: Step times of the engine that is imitated: a name in ``steps``, or the path of a file
            that ``deepprune doctor --engine`` has written.
        tokens_per_forced_answer: Tokens that forcing one answer takes, where recordings do not say.
        shuffle: Start the traces in a drawn order; false: as recorded, to replay a live run.

    Attributes:
        n_tokens: Lengths of the M traces in their recorded order, shape ``(M,)``.
        answer_class: Classes of their final answers, shape ``(M,)``.
        is_open: Whether a trace was stopped while it was recorded, shape ``(M,)``.
    """

    def __init__(
        self,
        group: QuestionTraces,
        prompt_tokens: int = 0,
        steps: StepTimes = ONE_SECOND,
        tokens_per_forced_answer: Annotated[int, Ge(0)] = 20,
        shuffle: bool = True,
    ) -> None:
        self.group = group
        self.prompt_tokens = prompt_tokens
        self.steps = steps
        self.tokens_per_forced_answer = tokens_per_forced_answer
        self._shuffle = shuffle
        traces = group.traces
        self.is_open: BoolArray = np.array([t.finish_reason.is_open for t in traces], bool)
        self.n_tokens: IntArray = np.array([t.n_tokens for t in traces], dtype=np.int64)
        self.answer_class: IntArray = np.array([t.answer_class for t in traces], dtype=np.int64)
        self._orders: dict[tuple[int, int], IntArray] = {}
        self._cuts: dict[PrefixRule, IntArray] = {}
        self._forced: dict[int, tuple[list[int], FloatArray]] = {}

    def open(self, n_traces: int, seed: int) -> ReplaySession:
        """Begin the question; ``seed`` decides which traces start, and in which order."""
        return ReplaySession(self, self.order(n_traces, seed))

    def order(self, n_traces: int, seed: int) -> IntArray:
        """Return which recorded traces start, in their order, shape ``(n_traces,)``."""
        group = self.group
        if n_traces > len(group.traces):
            raise ValueError(
                f"{group.question.question_id!r} has {len(group.traces)} recorded traces, "
                f"asked for {n_traces}."
            )
        if (n_traces, seed) not in self._orders:
            n = len(group.traces)
            drawn = generator(seed, *group.key).permutation(n) if self._shuffle else np.arange(n)
            self._orders[n_traces, seed] = drawn[:n_traces]
        return self._orders[n_traces, seed]

    def cuts(self, rule: PrefixRule) -> IntArray:
        """Return where ``rule`` pauses each trace, in tokens, shape ``(M,)``."""
        if rule not in self._cuts:
            cuts = [rule.cut(t.text, t.token_end) for t in self.group.traces]
            self._cuts[rule] = np.minimum(np.array(cuts, dtype=np.int64), self.n_tokens)
        return self._cuts[rule]

    def forced_answer(self, trace: int, n_tokens: int, since: int | None = None) -> tuple[int, int]:
        """Return class and tokens of the last answer forced out of a trace by ``n_tokens`` tokens.

        Raises:
            ValueError: If no trace has forced answers; or this one has none after ``since`` tokens,
                where it was asked last, but later ones: the same answer would count twice.
        """
        forced = self.group.traces[trace].forced_answers
        if not any(each.forced_answers for each in self.group.traces):
            raise ValueError(
                f"no forced answers are recorded for {self.group.question.question_id!r}: "
                "import traces with them, or choose a policy that needs none."
            )
        last = bisect_right(forced, n_tokens, key=lambda p: p.n_tokens) - 1
        is_last = not 0 <= last < len(forced) - 1
        if since is not None and not is_last and forced[last].n_tokens <= since:
            raise ValueError(
                f"answers are forced every {forced[1].n_tokens - forced[0].n_tokens} tokens: "
                f"{n_tokens - since} tokens between two looks are too few."
            )
        if last < 0:
            return NO_ANSWER, self.tokens_per_forced_answer
        return forced[last].answer_class, self._tokens(forced[last])

    def _tokens(self, forced: ForcedAnswer) -> int:
        return self.tokens_per_forced_answer if forced.tokens is None else forced.tokens

    def forced(self, trace: int, n_tokens: int) -> FloatArray:
        """Return the tokens of the answers forced out of a running trace, and what they attend to.

        Up to ``n_tokens`` tokens, see `Usage`, shape ``(2,)``. None is forced at the trace's end,
        where its answer is known.
        """
        if trace not in self._forced:
            end = self.group.traces[trace].n_tokens + self.is_open[trace]
            forced = [f for f in self.group.traces[trace].forced_answers if f.n_tokens < end]
            paid = [_paid(f.n_tokens, self._tokens(f)) for f in forced]
            places = [f.n_tokens for f in forced]
            self._forced[trace] = places, np.cumsum([np.zeros(2), *paid], axis=0)
        places, sums = self._forced[trace]
        so_far: FloatArray = sums[bisect_right(places, n_tokens)]
        return so_far


def _paid(place: int, tokens: int) -> FloatArray:
    """Return the tokens of an answer forced after ``place`` tokens, and what they attend to."""
    return np.array([tokens, attended(float(tokens), place)])


class ReplaySession:
    """One question of a `ReplayEngine`."""

    def __init__(self, engine: ReplayEngine, order: IntArray) -> None:
        self._engine = engine
        self._order = order
        self._n_tokens: IntArray = np.zeros(0, dtype=np.int64)
        self._is_stopped: BoolArray = np.zeros(0, dtype=np.bool_)
        self._n_seen = 0  # traces that had started at the last checkpoint
        self._tokens = self._tokens_forced = self._ticks = self._peak = 0
        self._forced_context = self._beyond = 0.0
        self._forcing: list[int] = []  # tokens forced out of each trace at this checkpoint
        self._forced_at: dict[int, int] = {}  # where each trace was last forced
        self._tokens_asked = 0  # of answers that the policy's steps forced
        self._read: dict[int, FloatArray] = {}  # answers of each trace that a judge has read

    def start(self, n: int) -> None:
        """Start the next ``n`` traces of the drawn order."""
        started = len(self._n_tokens)
        if started + n > len(self._order):
            raise ValueError(
                f"the question has {len(self._order)} traces, {started} are started, "
                f"so {n} more cannot be."
            )
        self._n_tokens = np.concatenate((self._n_tokens, np.zeros(n, dtype=np.int64)))
        self._is_stopped = np.concatenate((self._is_stopped, np.zeros(n, dtype=np.bool_)))

    def stop(self, traces: Sequence[int]) -> None:
        """Stop traces by index; one that has ended stays as it is."""
        self._is_stopped[[t for t in traces if not self.prefix(t).is_finished]] = True

    def advance(self, until: Until, force: Sequence[int] = ()) -> Observation:
        """Advance running traces to ``until``; none is ever moved back.

        Raises:
            ValueError: If a trace would continue beyond where it was stopped during recording.
        """
        self._ticks, self._beyond = self._clock()
        self._forcing = []
        old, engine, traces = self._n_tokens, self._engine, self._order[: self.n_started]
        lengths, is_open = engine.n_tokens[traces], engine.is_open[traces]
        running = ~self._is_stopped & ((old < lengths) | is_open)
        new, self._n_seen = np.arange(len(old)) >= self._n_seen, len(old)
        if until is None:
            wanted = lengths + 1
        elif until is ANY_FINISHED:
            ends = (lengths - old)[(running | new) & ~is_open]
            wanted = old + ends.min() if ends.size else lengths + 1
        elif isinstance(until, int):
            wanted = old + until
        else:
            wanted = np.maximum(engine.cuts(until)[traces], old)
        if (beyond := np.flatnonzero(running & is_open & (wanted > lengths))).size:
            first = int(beyond[0])
            raise ValueError(
                f"trace {first} of {engine.group.question.question_id!r} was stopped "
                f"after {lengths[first]} tokens while it was recorded, what would follow is not "
                "known: replay the policy that it was recorded under, or collect whole traces."
            )
        target = np.where(running, np.minimum(wanted, lengths), old)
        stretch = target - old
        self._tokens += int(stretch.sum())
        self._ticks += int(stretch.max(initial=0))
        self._beyond += float(engine.steps.beyond(stretch))
        self._peak = max(self._peak, int(running.sum()))
        self._n_tokens = target
        is_finished = (target >= lengths) & ~self._is_stopped & ~is_open
        answers = np.where(is_finished, engine.answer_class[traces], NO_ANSWER)
        forced = answers.copy()
        asked = [t for t in force if not is_finished[t] and not self._is_stopped[t]]
        for trace in asked:
            before, place = self._forced_at.get(trace, 0), int(target[trace])
            since = before if until else None  # asked where it stands, it may say the same
            forced[trace], tokens = engine.forced_answer(int(traces[trace]), place, since)
            if place > before:
                self._tokens_asked += tokens
                self._force(_paid(place, tokens))
            self._forced_at[trace] = place
        return Observation(
            target, is_finished, self._is_stopped.copy(), answers, forced, self._tokens_asked
        )

    @property
    def n_started(self) -> int:
        return len(self._n_tokens)

    def prefix(self, trace: int) -> Prefix:
        recorded = self._engine.group.traces[int(self._order[trace])]
        n_tokens = int(self._n_tokens[trace])
        is_finished = n_tokens >= recorded.n_tokens and not recorded.finish_reason.is_open
        return Prefix(recorded, n_tokens, is_finished=is_finished)

    def confidence(self, trace: int) -> FloatArray:
        """Return the token confidences of a trace so far, shape ``(n_tokens,)``.

        Recorded values that are NaN, infinite or made of clamped log-probabilities are 0.

        Raises:
            ValueError: If none are recorded.
        """
        prefix = self.prefix(trace)
        if prefix.trace.token_confidence is None:
            raise ValueError(
                f"no token confidences are recorded for {prefix.trace.question.question_id!r}: "
                "import traces with token_confidence, or choose a policy that needs none."
            )
        known = np.asarray(prefix.trace.token_confidence[: prefix.n_tokens], dtype=np.float64)
        return np.where(known < _CLAMPED, known, 0.0)

    def read_forced_answers(self, traces: Sequence[int]) -> None:
        """Count the answers that were forced out of these traces while they ran, once each.

        Those of one checkpoint were forced side by side, as in ``advance``. An answer that the
        policy has forced by ``advance`` may be the same; it is then paid twice.
        """
        for trace in traces:
            forced = self._engine.forced(int(self._order[trace]), int(self._n_tokens[trace]))
            new = forced - self._read.get(trace, 0)
            self._read[trace] = forced
            self._force(new)

    def _force(self, forced: FloatArray) -> None:
        """Count answers forced out of a trace, see `ReplayEngine.forced`, beside other traces'."""
        self._forcing.append(int(forced[0]))
        self._tokens_forced += self._forcing[-1]
        self._forced_context += float(forced[1])

    def _clock(self) -> tuple[int, float]:
        """Return the steps so far, and their seconds beyond the reading of the weights.

        Those in which answers are forced at this checkpoint are counted.
        """
        if not self._forcing:
            return self._ticks, self._beyond
        beyond = self._beyond + float(self._engine.steps.beyond(np.array(self._forcing)))
        return self._ticks + max(self._forcing), beyond

    @property
    def usage(self) -> Usage:
        ticks, beyond = self._clock()
        prompt, steps = self._engine.prompt_tokens, self._engine.steps
        context = int(self._n_tokens @ (2 * prompt + self._n_tokens + 1)) / 2  # see `attended`
        context += self._forced_context + prompt * self._tokens_forced
        return Usage(
            self._tokens,
            self._tokens_forced,
            self._forced_context,
            ticks,
            self._peak,
            steps.seconds(steps.weights_s * ticks + beyond, context, prompt),
        )

    def close(self) -> None:
        """Nothing to end: a replay runs only in ``advance``."""

    def states(self) -> list[TraceState]:
        return [self._state(trace) for trace in range(self.n_started)]

    def _state(self, trace: int) -> TraceState:
        prefix, status = self.prefix(trace), Status.RUNNING
        if self._is_stopped[trace]:
            status = Status.STOPPED
        elif prefix.is_finished:
            is_failed = prefix.trace.finish_reason is FinishReason.FAILED
            status = Status.FAILED if is_failed else Status.FINISHED
        answer = prefix.trace.answer if prefix.is_finished else None
        return TraceState(prefix.n_tokens, status, prefix.text[-TAIL:], answer)

    def answers(self) -> dict[int, str]:
        """Return for each class of the finished traces the answer of the first one."""
        spelled: dict[int, str] = {}
        for trace in map(self.prefix, range(self.n_started)):
            if trace.is_finished and trace.trace.answer is not None:
                spelled.setdefault(trace.trace.answer_class, trace.trace.answer)
        return spelled

    def traces(self) -> tuple[Trace, ...]:
        """Return the recorded traces, cut at the last checkpoint."""
        return tuple(map(self._played, range(self.n_started)))

    def records(self) -> list[Trace]:
        """Return the same as ``traces``: recorded answers have their classes."""
        return list(self.traces())

    def _played(self, number: int) -> Trace:
        prefix, is_stopped = self.prefix(number), bool(self._is_stopped[number])
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
            forced_answers=prefix.forced_answers,
        )
