"""Prompts of completions, for servers whose chat template we apply ourselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.types import Question
from deepprune.generation.backend import PromptFormat, Request, RequestError
from deepprune.generation.openai.stream import Generated

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

    async def chat(
        self, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any]
    ) -> list[int]:
        """Return the token ids of a chat up to where the assistant begins."""
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            **arguments,
        )
        return await self.encode(str(text))

    async def encode(self, text: str, special: bool = False) -> list[int]:
        """Return the token ids of a text; ``special`` adds the tokens that begin a prompt."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids


class ServerTokenizer:
    """The server's tokenizer, at ``/tokenize`` beside ``/v1`` (vLLM)."""

    def __init__(self, base_url: str, ask: Callable[..., Awaitable[object]]) -> None:
        self._url = base_url.removesuffix("/v1") + "/tokenize"
        self._ask = ask

    async def answers(self, messages: Sequence[Mapping[str, str]]) -> bool:
        """Whether the server has one that knows chats."""
        return bool(await self._tokens({"messages": list(messages)}, optional=True))

    async def chat(
        self, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any]
    ) -> list[int]:
        named = {"chat_template_kwargs": dict(arguments)} if arguments else {}
        return await self._tokens({"messages": list(messages), **named})

    async def encode(self, text: str, special: bool = False) -> list[int]:
        return await self._tokens({"prompt": text, "add_special_tokens": special})

    async def _tokens(self, body: Mapping[str, Any], optional: bool = False) -> list[int]:
        answer = await self._ask(self._url, body, optional=optional)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not tokens and not optional:
            raise RequestError(f"{self._url} gives no tokens")
        return [int(token) for token in tokens or ()]


Tokenizer = LocalTokenizer | ServerTokenizer


class Prompts:
    """Writes prompts: token ids where there is a ``tokenizer``, else text."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer
        self._heads: dict[tuple[str, bool], list[int]] = {}
        self._rendering = asyncio.Lock()

    async def of(self, request: Request, done: Generated) -> str | list[int]:
        """Return the prompt of a request that has already generated ``done``.

        Ids that the server has reported are sent back: its text could be split into other tokens.
        """
        rest = request.suffix + done.text
        if self._tokenizer is None:
            return request.format.user(request.question) + request.text + rest
        prompt = list(await self._head(self._tokenizer, request.format, request.question))
        if request.token_ids or not request.text:
            prompt += request.token_ids
            if not request.suffix and done.has_ids:
                return prompt + done.token_ids
        else:
            rest = request.text + rest
        return prompt + (await self._tokenizer.encode(rest) if rest else [])

    async def _head(
        self, tokenizer: Tokenizer, format: PromptFormat, question: Question
    ) -> list[int]:
        """Return the tokens of the question, which are requested once per question."""
        key = (question.text, format.chat)
        async with self._rendering:
            if key not in self._heads:
                if len(self._heads) >= _MOST_HEADS:
                    self._heads.clear()
                self._heads[key] = (
                    await tokenizer.chat(format.messages(question), format.chat_arguments)
                    if format.chat
                    else await tokenizer.encode(format.user(question), special=True)
                )
            return self._heads[key]
