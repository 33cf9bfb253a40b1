"""Interface of generators: streams of tokens that can be ended at any time.

`LiveEngine` (`generation.live`) drives one of three: vLLM on this machine (`generation.vllm`), a
server (`generation.openai`), or recorded traces (`generation.scripted`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, Protocol

from deepprune.answers.extract import AnswerStyle
from deepprune.core.options import Count, Ge, Gt, Le, checked
from deepprune.core.types import FinishReason, Question

_CLAMPED = -9999.0  # what vLLM reports instead of minus infinity


class EngineError(RuntimeError):
    """The engine is lost: it died, does not answer, or refuses everything; one line for users."""


class RequestError(RuntimeError):
    """One request failed for good, others continue; one line for users."""


@checked
@dataclass(frozen=True, slots=True)
class PromptFormat:
    r"""Turns a question into a prompt, and forces an answer out of a trace.

    Attributes:
        template: The user's message; ``{question}`` stands for the question's text.
        system: The system message; ``None`` for none.
        chat: Apply the model's chat template; otherwise the template is the whole prompt.
        chat_arguments: Arguments of the chat template, e.g. ``{"enable_thinking": True}``.
        think_end: Tag that closes the model's thoughts, e.g. ``</think>``; put before ``force`` if
            the trace has not closed them. Empty for a model that does not think.
        force: Text after a prefix that forces its answer out. It opens a box that the model then
            fills: the answer is read from ``force`` and the text after it.
        answer_style: Form in which traces state their answers.
    """

    template: str = (
        "{question}\n\nThink step by step, then write the final answer as \\boxed{answer}."
    )
    system: str | None = None
    chat: bool = True
    chat_arguments: Mapping[str, Any] = field(default_factory=dict)
    think_end: str = ""
    force: str = "\n\nThe final answer is \\boxed{"
    answer_style: AnswerStyle = AnswerStyle.BOXED

    def __post_init__(self) -> None:
        if "{question}" not in self.template:
            raise ValueError(
                "prompt.template must say where the question goes: {question} is missing in "
                f"{self.template!r}."
            )

    def messages(self, question: Question) -> list[dict[str, str]]:
        """Return the messages of a chat that asks a question."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.user(question)}]

    def user(self, question: Question) -> str:
        return self.template.replace("{question}", question.text)

    def forced(self, text: str) -> str:
        """Return the text that is put after a prefix to force its answer out."""
        is_open = bool(self.think_end) and self.think_end not in text
        return f"\n{self.think_end}{self.force}" if is_open else self.force


@checked
@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of traces.

    Attributes:
        max_tokens: Maximum number of tokens of a trace, thoughts and answer.
        temperature: 0 is greedy: all traces of a question are equal.
        top_p: Share of the probability mass to sample from.
        top_k: Number of tokens to sample from; 0 for all.
        stop: Texts that end a trace; they stay in it.
        logprobs: k of the top-k log-probabilities whose negative mean is a token's confidence; 0
            for no confidences.
    """

    max_tokens: Count = 32768
    temperature: Annotated[float, Ge(0)] = 0.6
    top_p: Annotated[float, Gt(0), Le(1)] = 0.95
    top_k: Annotated[int, Ge(0)] = 0
    stop: Sequence[str] = ()
    logprobs: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One request to start or continue a trace, or to force an answer out of it.

    Attributes:
        question: The question.
        format: Turns it into a prompt.
        sampling: Sampling parameters; its ``max_tokens`` is the trace's, not the request's.
        max_tokens: Maximum number of new tokens.
        seed: Seed of this request, in [0, 2^31).
        text: Text that the trace has generated before.
        token_ids: Tokens of ``text``, where the backend has reported them; otherwise empty.
        suffix: Text put after ``text`` to force an answer.
        sample_id: The trace's number within its question.
    """

    question: Question
    format: PromptFormat
    sampling: Sampling
    max_tokens: int
    seed: int
    text: str = ""
    token_ids: Sequence[int] = ()
    suffix: str = ""
    sample_id: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Output of a request since its last chunk.

    Attributes:
        text: New text.
        token_end: For each new token, the number of characters of ``text`` up to its end; in
            ascending order, at most ``len(text)``.
        token_ids: The new tokens, where the backend knows them; otherwise empty.
        confidence: For each new token, see `token_confidence`; empty where none were requested.
        finish_reason: On the last chunk: ``STOP`` if the model ended the trace, ``LENGTH`` if
            ``max_tokens`` did.
    """

    text: str
    token_end: Sequence[int]
    token_ids: Sequence[int] = ()
    confidence: Sequence[float] = ()
    finish_reason: FinishReason | None = None


def token_confidence(logprobs: Iterable[float | None], k: int) -> float:
    """Return minus the mean of the k highest log-probabilities of a token, in nats.

    DeepConf, Fu et al. 2025, eq. 2 (https://arxiv.org/abs/2508.15260). A token without known
    log-probabilities has no confidence: 0.
    """
    known = known_logprobs(logprobs)[:k]
    return -sum(known) / len(known) if known else 0.0


def known_logprobs(logprobs: Iterable[float | None]) -> list[float]:
    """Return the log-probabilities that are numbers, highest first.

    Missing, infinite, NaN and clamped ones say nothing; their mean would be the highest confidence.
    """
    return sorted((p for p in logprobs if p is not None and _CLAMPED < p < inf), reverse=True)


class Backend(Protocol):
    """A generator of traces. All coroutines run in the event loop of one `LiveEngine`."""

    @property
    def model(self) -> str:
        """Name of the model in records, tables and figures."""

    @property
    def token_counter(self) -> str:
        """``traces.GENERATOR`` if tokens are the model's own, else the name of the counter."""

    @property
    def can_continue(self) -> bool:
        """Whether a request may have ``text`` and ``suffix``; known once it is open."""

    @property
    def omitted(self) -> Sequence[str]:
        """Sampling parameters that requests lack, such as ``seed``; known once it is open."""

    @property
    def seats(self) -> int | None:
        """Maximum number of running requests, others wait; ``None``: no limit, or not open."""

    async def open(self, format: PromptFormat, sampling: Sampling) -> None:
        """Load the model, or connect to the server.

        Raises:
            InputError: If the backend cannot do what was configured.
            EngineError: If it does not start.
        """

    def stream(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Generate. Closing or cancelling the generator ends the request in the engine.

        Raises:
            RequestError: If this request failed for good, after all retries.
            EngineError: If the engine is lost.
        """

    async def close(self) -> None:
        """End all requests and free what is held."""
