"""The records that flow through deepprune: questions, traces, prefixes, pairs, decisions, votes.

Standard library only, so that every part can be read and used without the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

NO_ANSWER = -1
"""The answer class of a trace that has no final answer."""


class FinishReason(StrEnum):
    """Why a trace ended."""

    STOP = "stop"  # the model ended it
    LENGTH = "length"  # the token limit cut it
    PRUNED = "pruned"  # a policy stopped it while it was generated; what would follow is unknown
    CUT = "cut"  # the run or the engine ended before it did; likewise
    FAILED = "failed"  # its request failed for good: it ended without an answer
    UNKNOWN = "unknown"  # the source does not say

    @property
    def is_open(self) -> bool:
        """Whether the trace would have gone on."""
        return self in (FinishReason.PRUNED, FinishReason.CUT)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answer, identified by ``(dataset, question_id)``."""

    dataset: str
    question_id: str
    text: str
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer forced out of a trace after ``n_tokens`` tokens; ``None`` where it gave none.

    ``answer_class`` is its equivalence class, in the numbering of the question's final answers;
    ``is_correct`` says whether that class is the gold answer, as in `Trace`.
    """

    n_tokens: int
    answer: str | None
    answer_class: int = NO_ANSWER
    is_correct: bool | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """One sampled chain of thought.

    Attributes:
        question: The question it answers.
        model: Name of the model that generated it.
        sample_id: Number of the sample, unique within question and model.
        text: The generated text, without the prompt.
        n_tokens: Length in generated tokens.
        token_end: For each token the number of characters of ``text`` up to its end, shape
            ``(n_tokens,)``.
        finish_reason: Why it ended.
        answer: The final answer as extracted, or ``None``.
        answer_class: Equivalence class of the answer within question (all models of its store);
            ``NO_ANSWER`` without one.
        is_correct: Whether the answer is equivalent to the gold answer; ``None`` without a gold
            answer, and ``False`` for a trace without an answer.
        seed: Sampling seed, where known.
        source: Where the trace came from (run, file), for reading only.
        token_confidence: For each token minus the mean of its top-k log-probabilities (nats), where
            recorded.
        probes: Forced answers along the way, in order of ``n_tokens``.
    """

    question: Question
    model: str
    sample_id: int
    text: str = field(repr=False)
    n_tokens: int
    token_end: Sequence[int] = field(repr=False, compare=False)
    finish_reason: FinishReason = FinishReason.UNKNOWN
    answer: str | None = None
    answer_class: int = NO_ANSWER
    is_correct: bool | None = None
    seed: int | None = None
    source: str | None = None
    token_confidence: Sequence[float] | None = field(default=None, repr=False, compare=False)
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionRef:
    """Names the traces that one model generated for one question, without holding them."""

    question: Question
    model: str
    n_traces: int

    @property
    def key(self) -> tuple[str, str, str]:
        """Dataset, question id, model."""
        return self.question.dataset, self.question.question_id, self.model


@dataclass(frozen=True, slots=True)
class QuestionTraces:
    """The traces that one model generated for one question."""

    question: Question
    model: str
    traces: tuple[Trace, ...]


class PrefixRule(Protocol):
    """Where a prefix ends; the rules themselves are in ``deepprune.data.prefixes``."""

    @property
    def kind(self) -> str:
        """Name of the rule in configs and results, e.g. ``first_tokens``."""
        ...

    @property
    def k(self) -> float:
        """The rule's length: tokens, words or a fraction."""
        ...

    def cut(self, text: str, token_end: Sequence[int]) -> int:
        """Number of tokens of the prefix, at most ``len(token_end)``."""
        ...


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first ``n_tokens`` tokens of a trace.

    ``is_finished`` is a fact about the text: the final answer stands in it already, or nothing more
    follows. ``peers`` are the prefixes that were there when it was cut, where that is known.
    """

    trace: Trace
    n_tokens: int
    is_finished: bool
    peers: Peers | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The text of the prefix."""
        if self.n_tokens >= self.trace.n_tokens:
            return self.trace.text
        return self.trace.text[: self.trace.token_end[self.n_tokens - 1]] if self.n_tokens else ""

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The answers that were forced out of it; its trace's final answer is none of them."""
        return tuple(probe for probe in self.trace.probes if probe.n_tokens <= self.n_tokens)


@dataclass(frozen=True, eq=False)
class Peers:
    """All prefixes of a question that are there at one time: what a judge may compare a pair with.

    They have no peers of their own, and a pair's prefixes are among them.
    """

    prefixes: tuple[Prefix, ...]


def among_peers(prefixes: Sequence[Prefix]) -> list[Prefix]:
    """The same prefixes, each with all of them for its peers."""
    peers = Peers(tuple(replace(prefix, peers=None) for prefix in prefixes))
    return [replace(prefix, peers=peers) for prefix in prefixes]


@dataclass(frozen=True, slots=True)
class TracePair:
    """Two prefixes of one question; the representative first, the candidate second.

    ``agreement`` is its soft label, where one was asked for: of all continuations of the two
    prefixes, the share of those pairs that end in the same answer.
    """

    first: Prefix
    second: Prefix
    agreement: float | None = field(default=None, compare=False)

    @property
    def label(self) -> int | None:
        """1 where both traces end in the same answer, else 0; ``None`` where one has none."""
        a, b = self.first.trace.answer_class, self.second.trace.answer_class
        return None if NO_ANSWER in (a, b) else int(a == b)

    @property
    def is_unfinished(self) -> bool:
        """True where neither prefix has reached its answer: the pairs that test a judge."""
        return not (self.first.is_finished or self.second.is_finished)


class StopReason(StrEnum):
    """Why a policy stopped a trace."""

    REDUNDANT = "redundant"  # the judge expects the answer of a trace that goes on
    NOT_CHOSEN = "not_chosen"  # not among the traces that the finishing rule lets go on
    SETTLED = "settled"  # its own answer has stood through its last probes
    DECIDED = "decided"  # the vote of the question is decided without it
    DEVIANT = "deviant"  # its probes keep disagreeing with a clear majority
    UNSURE = "unsure"  # its token confidence fell too low


@dataclass(frozen=True, slots=True)
class Decision:
    """One trace stopped by a policy.

    Attributes:
        trace: Index of the trace within the question, in the order of their start.
        reason: Why.
        cluster: Number of its cluster, in the order of their opening; ``None`` where the policy has
            no clusters.
        by: Index of the trace that stands for it (its cluster's first), where there is one.
        score: The similarity that decided, where there is one.
    """

    trace: int
    reason: StopReason
    cluster: int | None = None
    by: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """The answer of a question.

    Attributes:
        answer_class: The winning answer class; ``NO_ANSWER`` where no trace has an answer.
        weights: Weight of each class that got a vote.
        voters: Indices of the traces that were asked, answered or not.
    """

    answer_class: int
    weights: dict[int, float]
    voters: tuple[int, ...]
