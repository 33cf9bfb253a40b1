"""Prompts of completions, for servers whose chat template we apply ourselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.types import Question
from deepprune.generation.backend import PromptFormat, Request, RequestError
from deepprune.generation.openai.stream import Reader


class LocalTokenizer:
    """The model's tokenizer, read by transformers."""

    def __init__(self, source: str) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise InputError(
                f"engine.tokenizer must be the folder or hub name of a tokenizer, got {source!r}: "
                f"{str(error).splitlines()[0]}"
            ) from error

    async def chat(self, format: PromptFormat, question: Question) -> list[int]:
        """Return the token ids of a chat up to where the assistant begins."""
        text = self._tokenizer.apply_chat_template(
            format.messages(question),
            tokenize=False,
            add_generation_prompt=True,
            **format.chat_arguments,
        )
        return await self.encode(str(text))

    async def encode(self, text: str, special: bool = False) -> list[int]:
        """Return the token ids of a text; ``special`` adds the tokens that begin a prompt."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids


class ServerTokenizer:
    """The server's tokenizer, at ``/tokenize`` beside ``/v1`` (vLLM)."""

    def __init__(self, url: str, ask: Callable[..., Awaitable[Any]]) -> None:
        self._url, self._ask = url, ask

    async def chat(self, format: PromptFormat, question: Question) -> list[int]:
        arguments = format.chat_arguments
        named = {"chat_template_kwargs": dict(arguments)} if arguments else {}
        return await self._tokens({"messages": format.messages(question), **named})

    async def encode(self, text: str, special: bool = False) -> list[int]:
        return await self._tokens({"prompt": text, "add_special_tokens": special})

    async def _tokens(self, body: dict[str, Any]) -> list[int]:
        answer = await self._ask(self._url, body)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not tokens:
            raise RequestError(f"{self._url} gives no tokens")
        return [int(token) for token in tokens]


Tokenizer = LocalTokenizer | ServerTokenizer


async def prompt_of(tokenizer: Tokenizer | None, request: Request, done: Reader) -> str | list[int]:
    """Return the prompt of a request that has generated ``done``: token ids, or text.

    Ids that the server has reported are sent back: its text could be split into other tokens.
    """
    format, rest = request.format, request.suffix + done.text
    if tokenizer is None:
        return format.user(request.question) + request.text + rest
    if format.chat:
        prompt = await tokenizer.chat(format, request.question)
    else:
        prompt = await tokenizer.encode(format.user(request.question), special=True)
    if request.token_ids or not request.text:
        prompt = [*prompt, *request.token_ids]
        if not request.suffix and done.has_ids:
            return prompt + done.token_ids
    else:
        rest = request.text + rest
    return prompt + (await tokenizer.encode(rest) if rest else [])
