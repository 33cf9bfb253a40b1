"""The interface of whatever generates: streams of tokens that can be ended at any time.

`LiveEngine` (`generation.live`) drives one of these: vLLM in this machine (`generation.vllm`), a
server (`generation.openai`), or recorded traces played as if they were generated
(`generation.scripted`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from deepprune.answers.extract import AnswerStyle
from deepprune.core.options import Count, Ge, Gt, Le, checked
from deepprune.core.types import FinishReason, Question


class EngineError(RuntimeError):
    """The engine is lost: it died, does not answer, or refuses everything. One line, for users."""


class RequestError(RuntimeError):
    """One request failed for good; others may go on. One line, for users."""


@checked
@dataclass(frozen=True, slots=True)
class PromptFormat:
    r"""Turns a question into a prompt, and forces an answer out of a trace.

    Attributes:
        template: What the user says; ``{question}`` stands for the question's text.
        system: The system message; ``None`` for none.
        chat: Apply the model's chat template; otherwise the template is all of the prompt.
        chat_arguments: For the chat template, e.g. ``{"enable_thinking": True}``.
        think_end: What closes the model's thoughts, e.g. ``</think>``; put before ``force`` where
            the trace has not closed them itself. Empty for a model that does not think.
        force: What is put after a prefix to force its answer out. It opens a box that the model
            then fills: the answer is read from ``force`` and what follows it.
        answer_style: How traces state their answers.
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
        """The chat that asks a question."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.user(question)}]

    def user(self, question: Question) -> str:
        """What the user says."""
        return self.template.replace("{question}", question.text)

    def forced(self, text: str) -> str:
        """What follows a prefix to force its answer out."""
        is_open = bool(self.think_end) and self.think_end not in text
        return f"\n{self.think_end}{self.force}" if is_open else self.force


@checked
@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of traces.

    Attributes:
        max_tokens: Most tokens of a trace, thoughts and answer.
        temperature: 0 is greedy, and all traces of a question are then alike.
        top_p: Share of the probability mass that is sampled from.
        top_k: Number of tokens that are sampled from; 0 for all.
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
    """One request: a prompt, what a trace has generated after it, and how it goes on.

    Attributes:
        question: What is asked.
        format: How it becomes a prompt.
        sampling: Temperature and the like; its ``max_tokens`` is the trace's, not the request's.
        max_tokens: Most new tokens.
        seed: For the sampling of this request, in [0, 2^31).
        text: What the trace has generated before.
        token_ids: Its tokens, where the backend has told them; otherwise empty.
        suffix: Put after ``text``, not generated, to force an answer.
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
    """What a request has generated since its last chunk.

    Attributes:
        text: New text.
        token_end: For each new token the characters of this ``text`` up to its end; never more than
            ``len(text)``, not falling.
        token_ids: The new tokens, where the backend knows them; otherwise empty.
        confidence: For each new token minus the mean of its top-k log-probabilities (nats); empty
            where none were asked for.
        finish_reason: On the last chunk: ``STOP`` where the model ended, ``LENGTH`` where
            ``max_tokens`` did.
    """

    text: str
    token_end: Sequence[int]
    token_ids: Sequence[int] = ()
    confidence: Sequence[float] = ()
    finish_reason: FinishReason | None = None


class Backend(Protocol):
    """Generates. All coroutines run in the event loop of one `LiveEngine`."""

    @property
    def model(self) -> str:
        """Name of the model in records, tables and figures."""

    @property
    def token_counter(self) -> str:
        """``traces.GENERATOR`` where tokens are the model's own, else what counted them."""

    @property
    def can_continue(self) -> bool:
        """Whether a request may have ``text`` and ``suffix``; known once it is open."""

    @property
    def seats(self) -> int | None:
        """Most requests that generate at once, others wait; ``None``: no limit, or not open."""

    async def open(self, format: PromptFormat, sampling: Sampling) -> None:
        """Load, or connect and find out what is there.

        Raises:
            InputError: If what was asked for cannot be had; says the way out.
            EngineError: If it does not start.
        """

    def stream(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Generate. Closing or cancelling the generator ends the request in the engine.

        Raises:
            RequestError: If this request failed for good, retries included.
            EngineError: If the engine is lost.
        """

    async def close(self) -> None:
        """End all requests and free what is held."""
