"""Prompts of completions, for servers whose chat template we apply ourselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.types import Question
from deepprune.generation.backend import PromptFormat, Request, RequestError
from deepprune.generation.openai.stream import Reader

_MOST_HEADS = 1024


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


class Prompts:
    """Writes the prompts of completions: token ids where there is a ``tokenizer``, else text.

    The tokens of a question are made once: each of its requests begins with them.
    """

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer
        self._heads: dict[str, list[int]] = {}
        self._asking = asyncio.Lock()

    async def of(self, request: Request, done: Reader) -> str | list[int]:
        """Return the prompt of a request that has generated ``done``.

        Ids that the server has reported are sent back: its text could be split into other tokens.
        """
        format, rest = request.format, request.suffix + done.text
        if self._tokenizer is None:
            return format.user(request.question) + request.text + rest
        prompt = await self._head(self._tokenizer, format, request.question)
        if request.token_ids or not request.text:
            prompt = [*prompt, *request.token_ids]
            if not request.suffix and done.has_ids:
                return prompt + done.token_ids
        else:
            rest = request.text + rest
        return prompt + (await self._tokenizer.encode(rest) if rest else [])

    async def _head(
        self, tokenizer: Tokenizer, format: PromptFormat, question: Question
    ) -> list[int]:
        async with self._asking:  # the traces of a question begin together
            if question.text not in self._heads:
                if len(self._heads) >= _MOST_HEADS:
                    self._heads.clear()
                self._heads[question.text] = (
                    await tokenizer.chat(format, question)
                    if format.chat
                    else await tokenizer.encode(format.user(question), special=True)
                )
            return self._heads[question.text]
