"""Where engines and policies meet.

    engine   starts traces, advances them to a checkpoint, stops them      -> Observation
    policy   sees observations and scores, decides what happens next       -> Step ... Vote
    judge    scores pairs of prefixes (its protocol: `judge.base.Judge`)   -> scores in [0, 1]
    loop     `pruning.controller.run_question`, called by the evaluator

A policy never learns whether a recording or a live server answers, nor which judge scores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepprune.types import Decision, Prefix, PrefixRule, Question, Vote

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ScorePairs = Callable[[IntArray], FloatArray]
"""Scores pairs of trace indices, shape ``(P, 2)`` -> ``(P,)``, on what has been generated so far.
"""


@dataclass(frozen=True, slots=True)
class Observation:
    """What an engine reports about the N traces that were started, in the order of their start.

    Attributes:
        n_tokens: Tokens generated so far, shape ``(N,)``.
        is_finished: The trace ended by itself or at its token limit, shape ``(N,)``.
        is_stopped: A policy stopped it, shape ``(N,)``.
        answer_class: Class of the final answer; ``NO_ANSWER`` while unfinished or without one,
            shape ``(N,)``.
    """

    n_tokens: IntArray
    is_finished: BoolArray
    is_stopped: BoolArray
    answer_class: IntArray


@dataclass(frozen=True, slots=True)
class Step:
    """What a policy wants next: stop these, start so many, then advance all running traces.

    Attributes:
        start: How many more traces to start.
        stop: The running traces to stop, and why.
        until: Where running traces pause next; ``None`` runs them to their end.
    """

    start: int = 0
    stop: Sequence[Decision] = ()
    until: PrefixRule | None = None


PolicyRun = Generator[Step, Observation, Vote]


class Policy(Protocol):
    """Decides for one question at a time; a frozen dataclass whose fields are one grid point.

    ``run`` is a generator: it yields what should happen next, receives what the engine then
    reports, and returns the vote. Its local variables are the state of the question.
    """

    @property
    def name(self) -> str:
        """The policy's name in configs, tables and figures."""
        ...

    def run(self, n_traces: int, score: ScorePairs, rng: np.random.Generator) -> PolicyRun:
        """Decide for one question with at most ``n_traces`` traces."""
        ...


class Session(Protocol):
    """One question on an engine."""

    def start(self, n: int) -> None:
        """Start ``n`` more traces."""
        ...

    def stop(self, traces: Sequence[int]) -> None:
        """Stop traces by index; what they generated stays."""
        ...

    def advance(self, until: PrefixRule | None) -> Observation:
        """Let every running trace generate up to ``until`` (``None``: to its end) and report."""
        ...

    def prefix(self, trace: int) -> Prefix:
        """What trace ``trace`` has generated so far."""
        ...

    @property
    def tokens_generated(self) -> int:
        """The engine's own count of generated tokens, over all traces of the session."""
        ...

    @property
    def seconds(self) -> float:
        """Seconds on the engine's clock since the question started; virtual in a replay."""
        ...

    def close(self) -> None:
        """Stop whatever still runs and free its seats."""
        ...


class Engine(Protocol):
    """Generates traces, or replays recorded ones."""

    def open(self, question: Question, model: str, n_traces: int, seed: int) -> Session:
        """Begin a question with a budget of ``n_traces`` traces of ``model``."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
