"""Records shared by all packages: questions, traces, prefixes, pairs, decisions, votes.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

NO_ANSWER = -1
"""Answer class of a trace without a final answer."""


class FinishReason(StrEnum):
    """Why a trace ended."""

    STOP = "stop"  # the model ended it
    LENGTH = "length"  # it reached the token limit
    PRUNED = "pruned"  # a policy stopped it during generation
    CUT = "cut"  # the run or the engine ended first
    FAILED = "failed"  # its request failed after all retries; it has no answer
    UNKNOWN = "unknown"  # not recorded

    @property
    def is_open(self) -> bool:
        """Whether the trace would have continued; its remaining text is unknown."""
        return self in (FinishReason.PRUNED, FinishReason.CUT)

    @property
    def is_whole(self) -> bool:
        """Whether the trace ended by itself or at the token limit, as far as is known."""
        return not (self.is_open or self is FinishReason.FAILED)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answer, identified by ``(dataset, question_id)``."""

    dataset: str
    question_id: str
    text: str
    gold: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """``(dataset, question_id)``."""
        return self.dataset, self.question_id


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """An answer forced out of a trace after ``n_tokens`` tokens; ``None`` if it gave none.

    ``answer_class`` is its equivalence class, in the numbering of the question's final answers;
    ``is_correct`` says whether that class is the gold answer, as in `Trace`. ``tokens`` is the
    length of the forced answer itself, if recorded.
    """

    n_tokens: int
    answer: str | None
    answer_class: int = NO_ANSWER
    is_correct: bool | None = None
    tokens: int | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Trace:
    """One sampled chain of thought.

    Attributes:
        question: The question it answers.
        model: Name of the model that generated it.
        sample_id: Number of the sample, unique within question and model.
        text: The generated text, without the prompt.
        n_tokens: Length in generated tokens.
        token_end: Number of characters of ``text`` up to the end of each token, shape
            ``(n_tokens,)``.
        finish_reason: Why it ended.
        answer: The final answer as extracted, or ``None``.
        answer_class: Equivalence class of the answer within the question, over all models of the
            store; ``NO_ANSWER`` without an answer.
        is_correct: Whether the answer is equivalent to the gold answer; ``None`` without a gold
            answer, ``False`` for a trace without an answer.
        seed: Sampling seed, if known.
        source: Run or file that the trace came from, for information only.
        token_confidence: Minus the mean of the top-k log-probabilities of each token (nats), if
            recorded.
        forced_answers: Forced answers along the way, in order of ``n_tokens``.
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
    forced_answers: tuple[ForcedAnswer, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, int]:
        """``(dataset, question_id, model, sample_id)``."""
        return *self.question.key, self.model, self.sample_id


@dataclass(frozen=True, slots=True)
class QuestionRef:
    """Reference to the traces that one model generated for one question."""

    question: Question
    model: str
    n_traces: int

    @property
    def key(self) -> tuple[str, str, str]:
        """``(dataset, question_id, model)``."""
        return *self.question.key, self.model


@dataclass(frozen=True, slots=True)
class QuestionTraces:
    """The traces that one model generated for one question."""

    question: Question
    model: str
    traces: tuple[Trace, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """``(dataset, question_id, model)``."""
        return *self.question.key, self.model


class PrefixRule(Protocol):
    """Rule for the end of a prefix; implemented in ``deepprune.data.prefixes``."""

    @property
    def kind(self) -> str:
        """Name of the rule in configs and results, e.g. ``first_tokens``."""

    @property
    def k(self) -> float:
        """Length of the prefix: tokens, words or a fraction."""

    def cut(self, text: str, token_end: Sequence[int]) -> int:
        """Return the number of tokens of the prefix, at most ``len(token_end)``."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first ``n_tokens`` tokens of a trace.

    ``is_finished``: the text contains the final answer, or the trace ends with it. ``peers`` are
    the question's prefixes at the time of the cut, if known.
    """

    trace: Trace
    n_tokens: int
    is_finished: bool
    peers: Peers | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        if self.n_tokens >= self.trace.n_tokens:
            return self.trace.text
        return self.trace.text[: self.trace.token_end[self.n_tokens - 1]] if self.n_tokens else ""

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """``(dataset, question_id, model, sample_id, n_tokens)``."""
        return *self.trace.key, self.n_tokens

    @property
    def forced_answers(self) -> tuple[ForcedAnswer, ...]:
        """The answers that were forced out of it, without its trace's final answer."""
        return tuple(one for one in self.trace.forced_answers if one.n_tokens <= self.n_tokens)


@dataclass(frozen=True, eq=False)
class Peers:
    """All prefixes of a question at one time, for judges that compare a pair with the others.

    Includes the pair's own prefixes. The prefixes have no peers of their own.
    """

    prefixes: tuple[Prefix, ...]


def answers_of(traces: Sequence[Trace]) -> list[Trace | ForcedAnswer]:
    """Return what has an answer class: the traces with one, then the forced answers with one."""
    forced = [answer for trace in traces for answer in trace.forced_answers]
    answers: list[Trace | ForcedAnswer] = [*traces, *forced]
    return [one for one in answers if one.answer_class != NO_ANSWER]


def among_peers(prefixes: Sequence[Prefix]) -> list[Prefix]:
    """Return the prefixes, each with all of them as its peers."""
    peers = Peers(tuple(replace(prefix, peers=None) for prefix in prefixes))
    return [replace(prefix, peers=peers) for prefix in prefixes]


@dataclass(frozen=True, slots=True)
class TracePair:
    """Two prefixes of one question, first the representative, then the candidate."""

    first: Prefix
    second: Prefix

    @property
    def label(self) -> int | None:
        """1 if both traces end in the same answer, else 0; ``None`` if one has no answer."""
        a, b = self.first.trace.answer_class, self.second.trace.answer_class
        return None if NO_ANSWER in (a, b) else int(a == b)

    @property
    def is_unfinished(self) -> bool:
        """Whether neither prefix has reached its answer; only such pairs test a judge."""
        return not (self.first.is_finished or self.second.is_finished)


class StopReason(StrEnum):
    """Why a policy stopped a trace."""

    REDUNDANT = "redundant"  # the judge expects the same answer as that of a kept trace
    NOT_CHOSEN = "not_chosen"  # not among the traces that the finishing rule keeps
    SETTLED = "settled"  # its last forced answers agree
    DECIDED = "decided"  # it cannot change the vote any more
    DEVIANT = "deviant"  # its forced answers keep disagreeing with a clear majority
    UNSURE = "unsure"  # its token confidence fell too low


@dataclass(frozen=True, slots=True)
class Decision:
    """One trace stopped by a policy.

    Attributes:
        trace: Index of the trace within the question, in order of start.
        reason: Why it was stopped.
        cluster: Number of its cluster, in order of creation; ``None`` for a policy without
            clusters.
        by: Index of the trace that represents it (its cluster's first), if any.
        score: The similarity that decided, if any.
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
        answer_class: The winning answer class; ``NO_ANSWER`` if no trace has an answer.
        weights: Weight of each class that received a vote.
        voters: Indices of the traces that may vote, with or without an answer.
    """

    answer_class: int
    weights: dict[int, float]
    voters: tuple[int, ...]
