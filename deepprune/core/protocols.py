"""The interfaces between sessions of an engine, policies and judges.

    session  starts traces, advances them to a checkpoint, stops them      -> Observation
    policy   sees observations and evidence, decides what happens next     -> Step ... Vote
    judge    scores pairs of prefixes (its protocol: `judge.base.Judge`)   -> scores in [0, 1]
    loop     `pruning.controller.run_question`, called by the evaluator

A policy never learns whether a recording or a live server answers, nor which judge scores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepprune.core.types import Decision, Prefix, PrefixRule, Trace, Vote

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ScorePairs = Callable[[IntArray], FloatArray]
"""Scores pairs of trace indices, shape ``(P, 2)`` -> ``(P,)``, on what has been generated so far.
"""


class AnyFinished(Enum):
    """Type of `ANY_FINISHED`."""

    ANY_FINISHED = "any_finished"


ANY_FINISHED: Final = AnyFinished.ANY_FINISHED
"""Pause all traces where the first of them ends: d tokens after the last pause, that of every other
one too. What a live trace has generated beyond is not shown; traces that end together are reported
together. A trace that started since and has no token ends at d = 0.
"""

Until = PrefixRule | AnyFinished | int | None
"""Where running traces pause: at a rule, at the next end of a trace, after so many more tokens, or
(``None``) each at its end.
"""


@dataclass(frozen=True, slots=True)
class Observation:
    """Report of a session on the N started traces, in the order of their start.

    Attributes:
        n_tokens: Tokens generated so far, shape ``(N,)``.
        is_finished: The trace ended by itself or at its token limit, shape ``(N,)``.
        is_stopped: A policy stopped it, shape ``(N,)``.
        answer_class: Class of the final answer; ``NO_ANSWER`` while unfinished or without one,
            shape ``(N,)``.
        forced_class: Class of the answer that was forced at this checkpoint, of a finished trace
            its ``answer_class``; ``NO_ANSWER`` where none was forced, shape ``(N,)``.
        tokens_forced: Tokens of all answers that the policy's steps have forced so far.
    """

    n_tokens: IntArray
    is_finished: BoolArray
    is_stopped: BoolArray
    answer_class: IntArray
    forced_class: IntArray
    tokens_forced: int


@dataclass(frozen=True, slots=True)
class Step:
    """A request of a policy: stop traces, start traces, then advance all running ones.

    Attributes:
        start: Number of traces to start.
        stop: The running traces to stop, and why.
        until: Where running traces pause next, see `Until`.
        force: Traces that an answer is forced out of where they pause, unless they have ended; they
            then continue as if nothing had been asked.
    """

    start: int = 0
    stop: Sequence[Decision] = ()
    until: Until = None
    force: Sequence[int] = ()


PolicyRun = Generator[Step, Observation, Vote]


class Evidence(Protocol):
    """Evidence that a policy can ask for, on the current prefixes of running traces."""

    def score(self, pairs: IntArray) -> FloatArray:
        """Return the judge's scores of pairs of trace indices, shape ``(P, 2)`` -> ``(P,)``."""

    def confidence(self, trace: int) -> FloatArray:
        """Return the token confidences of a trace so far, see `Trace`, shape ``(n_tokens,)``."""

    @property
    def mean_length(self) -> float:
        """Expected tokens of a whole trace, fixed before the question starts.

        A sweep takes the mean of the model's other questions, a live run that of its earlier ones
        (`live.record`); a replay of a live run takes what the run took.
        """


class Need(StrEnum):
    """A requirement of a policy or a judge beyond tokens and final answers."""

    JUDGE = "judge"  # pair scores, and so whatever the judge needs
    TEXT = "text"  # text of the traces
    FORCED_ANSWERS = "forced_answers"  # forced answers at checkpoints
    CONFIDENCE = "confidence"  # token log-probabilities


TEXT_ALONE = frozenset({Need.TEXT})
"""Default needs of a judge."""


class Policy(Protocol):
    """Decides for one question at a time; a frozen dataclass whose fields are one grid point.

    ``run`` is a generator: it yields what should happen next, receives what the engine then
    reports, and returns the vote. Its local variables are the state of the question.
    """

    @property
    def name(self) -> str:
        """Name in configs, tables and figures."""

    @property
    def needs(self) -> frozenset[Need]:
        """Requirements, which an evaluation checks before it begins."""

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        """Decide one question with at most ``n_traces`` traces."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The engine's own counts for one question so far.

    Attributes:
        tokens: Tokens generated over all traces, without forced answers.
        tokens_forced: Tokens generated to force answers.
        forced_context: Tokens that each of those attended to, summed, for the FLOPs.
        tokens_sequential: Tokens that had to be generated one after the other: the latency.
        peak_traces: The most traces that ran at once.
        seconds: On the engine's clock; virtual in a replay.
    """

    tokens: int
    tokens_forced: int
    forced_context: float
    tokens_sequential: int
    peak_traces: int
    seconds: float


class Status(StrEnum):
    """The state of a trace."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TraceState:
    """A trace at this moment, for views.

    Attributes:
        n_tokens: Tokens generated.
        status: Whether it runs, and if not, how it ended.
        tail: End of its text.
        answer: Answer of a trace that has ended, even if no checkpoint has counted it yet.
    """

    n_tokens: int
    status: Status
    tail: str
    answer: str | None


class Session(Protocol):
    """One question on an engine."""

    def start(self, n: int) -> None:
        """Start ``n`` more traces."""

    def stop(self, traces: Sequence[int]) -> None:
        """Stop traces by index; what they generated stays."""

    def advance(self, until: Until, force: Sequence[int] = ()) -> Observation:
        """Advance every running trace to ``until``, see `Step`, and report."""

    @property
    def n_started(self) -> int:
        """Traces that have been started."""

    def prefix(self, trace: int) -> Prefix:
        """Return the current prefix of a trace."""

    def confidence(self, trace: int) -> FloatArray:
        """Return its token confidences so far, see `Evidence`."""

    def read_forced_answers(self, traces: Sequence[int]) -> None:
        """Count in ``usage`` the answers forced so far out of these traces, which a judge reads.

        Each answer is counted once, however often it is read.
        """

    @property
    def usage(self) -> Usage:
        """The engine's own counts for this question."""

    def close(self) -> None:
        """Stop all running traces and free their seats."""

    def states(self) -> list[TraceState]:
        """Return the current states of all started traces, of a replay those at its checkpoint.

        This and ``answers`` may be called from any thread.
        """

    def answers(self) -> Mapping[int, str]:
        """Return for each answer class so far the answer as it was first spelled."""

    def traces(self) -> tuple[Trace, ...]:
        """Return all started traces with classed answers; call it on a closed session.

        Raises:
            WorkerError: If answers cannot be compared.
        """

    def records(self) -> list[Trace]:
        """Return all started traces if answers cannot be compared: live ones have no class."""
