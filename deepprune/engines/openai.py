"""Any server that speaks OpenAI's protocol: vLLM's, SGLang, llama.cpp, hosted ones.

What a server can do differs, and few say so: `OpenAIBackend.open` finds out with requests of a few
tokens. A trace goes on from a prefix by ``/v1/completions``, whose prompt we write ourselves, or by
a chat whose last message is the assistant's and stays open (prefill).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from deepprune.engines.backend import (
    Chunk,
    EngineError,
    PromptFormat,
    Request,
    RequestError,
    Sampling,
)
from deepprune.engines.openai_faults import Faults, Patience, Refused
from deepprune.engines.openai_stream import Done, Reader, think_start
from deepprune.errors import InputError
from deepprune.types import FinishReason, Question

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")
_log = logging.getLogger(__name__)

APIS = ("auto", "completions", "chat")
_MOST_CONNECTIONS = 1000  # of the openai client's pool

# A new turn would begin a number or a sentence; only one that goes on writes the 0 of 10 first.
_COUNTING = Question("", "", "Count from 1 to 40, separated by commas.")
_BEGUN, _GOES_ON = "1, 2, 3, 4, 5, 6, 7, 8, 9, 1", "0"


class Continuation(StrEnum):
    """How a server goes on from a prefix."""

    COMPLETIONS = "completions"
    FLAGGED_PREFILL = "chat prefill (continue_final_message)"
    PREFILL = "chat prefill"
    NOTHING = "nothing"


class OpenAIBackend:
    """Requests to a server; its model, capabilities and faults are found out or outlived.

    A request that fails is sent again, after a wait that doubles, with jitter, or that the server
    names. A stream that breaks goes on from what it has generated, where the server can do that.

    Tokens are the server's own where it tells their ids (vLLM) or their log-probabilities;
    otherwise each piece of a stream counts as one, and the last is corrected by the server's count.

    A server with a reasoning parser sends the thoughts apart: they are put back before the answer,
    within ``<think>`` and ``</think>``. Of a thinking model, prefer completions: a chat template
    may move or drop the thoughts of a message that it is to go on with.

    Args:
        base_url: E.g. ``http://localhost:8000/v1``.
        model: As the server names it; ``None``: the only one that it serves.
        name: Of the model in records; ``None``: as the server names it.
        api: ``completions``, ``chat``, or ``auto``: completions where they can be had.
        tokenizer: Folder or hub name of the model's tokenizer, whose chat template then writes the
            prompts of completions; ``None``: the server's own (``/tokenize``, vLLM).
        api_key_env: Environment variable with the key; none is needed where it is unset.
        timeout_s: Longest wait for a connection or for the next byte, in seconds.
        max_retries: Failures in a row that a request survives.
        max_concurrent: Requests at a time, in [1, 1000]; the others wait here.
        extra_body: Further fields of every request, e.g. ``{"min_p": 0.05}``.

    Raises:
        InputError: If a value is out of its range or ``base_url`` carries a password.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        name: str | None = None,
        api: str = "auto",
        tokenizer: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 120.0,
        max_retries: int = 5,
        max_concurrent: int = 256,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        _check(base_url, api, api_key_env, timeout_s, max_retries, max_concurrent)
        self.base_url = base_url.rstrip("/")
        self.continuation = Continuation.NOTHING
        self._model, self._name = model, name
        self._api = api
        self._tokenizer_source = tokenizer
        key = os.environ.get(api_key_env, "")
        self._faults = Faults(self.base_url, key, api_key_env, timeout_s, max_retries)
        self._max_concurrent = max_concurrent
        self._extra_body = dict(extra_body or {})
        self._is_chat = False
        self._tokenizer: _Tokenizer | None = None
        self._features = _Features()
        self._heads: dict[tuple[str, bool], list[int]] = {}
        self._client: AsyncOpenAI | None = None

    @property
    def model(self) -> str:
        """Name of the model in records; without ``model`` and ``name`` known once it is open."""
        return self._name or self._model or ""

    @property
    def token_counter(self) -> str:
        """``generator`` where the server tells its tokens, else ``chunks``: pieces of a stream."""
        return "generator" if self._features.tells_tokens else "chunks"

    @property
    def can_continue(self) -> bool:
        """Whether the server goes on from a prefix; ``continuation`` says how."""
        return self.continuation is not Continuation.NOTHING

    async def open(self, format: PromptFormat, sampling: Sampling) -> None:
        """Connect, name the model and find out what the server can do.

        Raises:
            InputError: If the package openai, the model, an API or log-probabilities are missing.
            EngineError: If the server is not there or refuses the key.
        """
        try:
            import openai
        except ImportError:
            raise InputError(
                "engine=openai needs its client: pip install 'deepprune[openai]'."
            ) from None

        for library in ("httpx", "httpx2"):  # they tell of every request
            logging.getLogger(library).setLevel(logging.WARNING)
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._faults.key or "none",
            timeout=self._faults.timeout_s,
            max_retries=0,
        )
        self._seats = asyncio.Semaphore(self._max_concurrent)
        self._rendering = asyncio.Lock()
        greedy = replace(sampling, temperature=0.0)
        failed = ""
        try:
            self._model = await self._only_model()
            await self._choose_api(Request(_COUNTING, format, greedy, max_tokens=2, seed=0))
        except RequestError as error:
            failed = str(error)
        if failed:
            raise EngineError(f"{self.base_url} cannot be used: {failed}")
        _log.info(
            "%s at %s: %s, it continues by %s, tokens counted by %s",
            self._model,
            self.base_url,
            "chat" if self._is_chat else "completions",
            self.continuation,
            self.token_counter,
        )

    async def stream(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Generate; closing the generator closes the connection, which ends the request there.

        Raises:
            RequestError: If the server refuses the request, or fails it too often.
            EngineError: If the server is gone or refuses the key.
        """
        if self._client is None:
            raise EngineError("the backend is closed")
        patience = Patience(self._faults)
        done = Done()
        async with self._seats:
            while True:
                try:
                    async with aclosing(self._attempt(request, done)) as chunks:
                        async for chunk in chunks:
                            patience.reset()
                            yield chunk
                    return
                except Exception as error:
                    failure = self._faults.of(error)
                # outside of the handler: what is raised here must not carry the client's own error
                if done.n_tokens >= request.max_tokens:
                    yield Chunk("", (), finish_reason=FinishReason.LENGTH)
                    return
                if done.text and not self.can_continue:
                    await self._list_models()  # or is it all of the server that is gone?
                    raise RequestError(
                        f"{failure.reason}, after {done.n_tokens} tokens, and the server cannot "
                        "go on from a prefix"
                    )
                await patience.wait(failure)

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # Finding out

    async def _list_models(self) -> list[str]:
        listed = await self._ask(
            lambda client: client.get("/models", cast_to=object), optional=True
        )
        data = listed.get("data") if isinstance(listed, dict) else None
        return [str(m["id"]) for m in data or () if isinstance(m, dict) and "id" in m]

    async def _only_model(self) -> str:
        names = await self._list_models()
        if self._model is None:
            if len(names) != 1:
                raise InputError(
                    f"engine.model must say which model of {self.base_url} generates; it lists "
                    f"{', '.join(names) or 'none'}."
                )
            return names[0]
        if names and self._model not in names:
            shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
            raise InputError(
                f"engine.model must be one that {self.base_url} serves ({shown}), "
                f"got {self._model!r}."
            )
        return self._model

    async def _choose_api(self, probe: Request) -> None:
        refusal = ""
        if self._api != "chat":
            self._tokenizer = await self._find_tokenizer(probe)
            if probe.format.chat and self._tokenizer is None:
                refusal = (
                    "a chat prompt for /v1/completions needs the model's chat template: give "
                    "engine.tokenizer (its folder or hub name), or take prompt.chat=false"
                )
            else:
                self._is_chat = False
                refusal = await self._learn_features(probe)
            if not refusal:
                self.continuation = Continuation.COMPLETIONS
                return
            if self._api == "completions":
                raise InputError(
                    f"engine.api=completions cannot be had of {self.base_url}: {refusal}."
                )
        self._is_chat, self._tokenizer = True, None
        if not probe.format.chat:
            raise InputError(
                f"prompt.chat=false needs /v1/completions, which {self.base_url} has not"
                f"{': ' + refusal if refusal else ''}; take prompt.chat=true."
            )
        if chat_refusal := await self._learn_features(probe):
            raise InputError(f"{self.base_url} has no chat for this request: {chat_refusal}.")
        await self._learn_prefill(probe)
        if not self.can_continue:
            _log.warning("%s cannot go on from a prefix: %s", self.base_url, refusal or "chat only")
        elif probe.format.think_end:
            _log.warning(
                "a chat template may drop the thoughts of a message that it goes on with: "
                "engine.tokenizer=MODEL and engine.api=completions continue exactly"
            )

    async def _find_tokenizer(self, probe: Request) -> _Tokenizer | None:
        if self._tokenizer_source is not None:
            return _LocalTokenizer(self._tokenizer_source)
        remote = _ServerTokenizer(self)
        return remote if await remote.answers(probe.format.messages(probe.question)) else None

    async def _learn_features(self, probe: Request) -> str:
        """Find out what may be asked for; returns why nothing can, or an empty text."""
        k = probe.sampling.logprobs
        probe = replace(probe, sampling=replace(probe.sampling, logprobs=0))
        everything = _Features(extensions=True, logprobs=max(1, k), usage=True)
        refusal = ""
        for features in (
            everything,
            replace(everything, extensions=False),
            replace(everything, extensions=False, logprobs=0),
            _Features(),
        ):
            self._features = features
            try:
                seen = await self._try(probe)
            except Refused as refused:
                refusal = str(refused)
                if refused.status not in (400, 422):
                    break
                continue
            self._features = replace(
                features,
                logprobs=features.logprobs if seen.has_logprobs else 0,
                token_ids=seen.has_ids,
            )
            if k and not self._features.logprobs:
                raise InputError(
                    f"sampling.logprobs={k} needs log-probabilities, and {self.base_url} gives "
                    f"none{': ' + refusal if refusal else ''}; take sampling.logprobs=0."
                )
            return ""
        return refusal

    async def _learn_prefill(self, probe: Request) -> None:
        opened = f"{think_start(probe.format.think_end)}\n" if probe.format.think_end else ""
        probe = replace(
            probe,
            text=opened + _BEGUN,
            sampling=replace(probe.sampling, stop=(), logprobs=0),
            max_tokens=4,
        )
        for way in (Continuation.FLAGGED_PREFILL, Continuation.PREFILL):
            self.continuation = way
            try:
                if (await self._try(probe)).text.startswith(_GOES_ON):
                    return
            except Refused:
                continue
        self.continuation = Continuation.NOTHING

    async def _try(self, probe: Request) -> Done:
        """What a request of a few tokens gives, retries included."""
        patience = Patience(self._faults)
        while True:
            done = Done()
            try:
                async with aclosing(self._attempt(probe, done)) as chunks:
                    async for _ in chunks:
                        pass
                return done
            except Exception as error:
                failure = self._faults.of(error)
            await patience.wait(failure)

    async def _ask(
        self, call: Callable[[AsyncOpenAI], Awaitable[T]], *, optional: bool = False
    ) -> T | None:
        """One answer that is no stream, retries included; ``None`` where it is not to be had."""
        patience = Patience(self._faults)
        while True:
            if self._client is None:
                raise EngineError("the backend is closed")
            try:
                return await call(self._client)
            except Exception as error:
                failure = self._faults.of(error)
            if optional and failure.status not in (None, 401, 403, 429, 503):
                return None
            await patience.wait(failure)

    # One request

    async def _attempt(self, request: Request, done: Done) -> AsyncGenerator[Chunk, None]:
        """What the server streams, after what earlier attempts have ``done``."""
        from openai import AsyncStream

        path, body = await self._body(request, done)
        assert self._client is not None
        reader = Reader(request, done)
        # the plain JSON of each event: typed ones cost more than the network, and lack extensions
        stream = await self._client.post(
            path, body=body, cast_to=object, stream=True, stream_cls=AsyncStream[object]
        )
        try:
            async for event in stream:
                if (chunk := reader.read(event)) is not None:
                    yield chunk
        except Exception:
            if not reader.is_finished:
                raise
        finally:
            await stream.close()
        yield reader.last()

    async def _body(self, request: Request, done: Done) -> tuple[str, dict[str, Any]]:
        sampling, features, format = request.sampling, self._features, request.format
        limit = request.max_tokens - done.n_tokens
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": (request.seed + done.n_tokens) % 2**31,
            "stream": True,
        }
        if features.usage:
            body["stream_options"] = {"include_usage": True}
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if features.extensions:
            body["return_token_ids"] = True
            if sampling.stop:  # as vLLM and as SGLang name it
                body |= {"include_stop_str_in_output": True, "no_stop_trim": True}
        is_needed = sampling.logprobs > 0 or not features.token_ids  # logprobs tell tokens too
        logprobs = features.logprobs if is_needed else 0
        if not self._is_chat:
            if logprobs:
                body["logprobs"] = logprobs
            body["prompt"] = await self._prompt(request, done)
        else:
            if logprobs:
                body |= {"logprobs": True, "top_logprobs": logprobs}
            if format.chat_arguments:
                body["chat_template_kwargs"] = dict(format.chat_arguments)
            body["messages"] = format.messages(request.question)
            if begun := request.text + request.suffix + done.text:
                body["messages"].append({"role": "assistant", "content": begun})
                if self.continuation is Continuation.FLAGGED_PREFILL:
                    body |= {"continue_final_message": True, "add_generation_prompt": False}
        body |= self._extra_body
        return ("/chat/completions" if self._is_chat else "/completions"), body

    async def _prompt(self, request: Request, done: Done) -> str | list[int]:
        """The prompt of a completion: token ids where there is a tokenizer, else text.

        Ids that the server has told go back as they are: text may be cut into others.
        """
        rest = request.suffix + done.text
        if self._tokenizer is None:
            return request.format.user(request.question) + request.text + rest
        prompt = list(await self._head(request.format, request.question))
        if request.token_ids or not request.text:
            prompt += request.token_ids
            if not request.suffix and done.has_ids:
                return prompt + done.token_ids
        else:
            rest = request.text + rest
        return prompt + (await self._tokenizer.encode(rest) if rest else [])

    async def _head(self, format: PromptFormat, question: Question) -> list[int]:
        """The tokens of the question; those of one question are asked for once."""
        assert self._tokenizer is not None
        key = (question.text, format.chat)
        async with self._rendering:
            if key not in self._heads:
                if len(self._heads) >= 1024:
                    self._heads.clear()
                self._heads[key] = (
                    await self._tokenizer.chat(format.messages(question), format.chat_arguments)
                    if format.chat
                    else await self._tokenizer.encode(format.user(question), special=True)
                )
            return self._heads[key]


@dataclass(frozen=True, slots=True)
class _Features:
    """What the server understands and tells."""

    extensions: bool = False  # fields that OpenAI does not have are not refused
    token_ids: bool = False
    logprobs: int = 0  # so many may be asked for
    usage: bool = False

    @property
    def tells_tokens(self) -> bool:
        return self.token_ids or self.logprobs > 0


class _Tokenizer(Protocol):
    """Token ids of prompts."""

    async def chat(
        self, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any]
    ) -> list[int]:
        """Of a chat up to where the assistant begins."""
        ...

    async def encode(self, text: str, special: bool = False) -> list[int]:
        """Of a text; ``special``: with what begins a prompt."""
        ...


class _LocalTokenizer:
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
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            **arguments,
        )
        return await self.encode(str(text))

    async def encode(self, text: str, special: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids


class _ServerTokenizer:
    """The server's own, at ``/tokenize`` beside ``/v1`` (vLLM)."""

    def __init__(self, backend: OpenAIBackend) -> None:
        self._backend = backend
        self._url = backend.base_url.removesuffix("/v1") + "/tokenize"

    async def answers(self, messages: Sequence[Mapping[str, str]]) -> bool:
        """Whether there is one that knows chats."""
        return bool(await self._tokens({"messages": list(messages)}, optional=True))

    async def chat(
        self, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any]
    ) -> list[int]:
        named = {"chat_template_kwargs": dict(arguments)} if arguments else {}
        return await self._tokens({"messages": list(messages), **named})

    async def encode(self, text: str, special: bool = False) -> list[int]:
        return await self._tokens({"prompt": text, "add_special_tokens": special})

    async def _tokens(self, body: Mapping[str, Any], optional: bool = False) -> list[int]:
        backend = self._backend
        answer = await backend._ask(
            lambda client: client.post(
                self._url, body={"model": backend._model, **body}, cast_to=object
            ),
            optional=optional,
        )
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not tokens and not optional:
            raise RequestError(f"{self._url} gives no tokens")
        return [int(token) for token in tokens or ()]


def _check(
    base_url: str,
    api: str,
    api_key_env: str,
    timeout_s: float,
    max_retries: int,
    max_concurrent: int,
) -> None:
    address = urlsplit(base_url)
    if address.password or address.username:
        raise InputError(
            "engine.base_url is recorded and must not carry a password: put the key into an "
            "environment variable and name that by engine.api_key_env."
        )
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(
            f"engine.base_url must be like http://localhost:8000/v1, got {base_url!r}."
        )
    if api not in APIS:
        raise InputError(f"engine.api must be one of {', '.join(APIS)}, got {api!r}.")
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", api_key_env):
        raise InputError(
            "engine.api_key_env must be the name of an environment variable, in capitals; what it "
            "got is not shown, since it could be a key."
        )
    if timeout_s <= 0:
        raise InputError(f"engine.timeout_s must be positive, got {timeout_s:g}.")
    if max_retries < 0:
        raise InputError(f"engine.max_retries must be at least 0, got {max_retries}.")
    if not 1 <= max_concurrent <= _MOST_CONNECTIONS:
        raise InputError(
            f"engine.max_concurrent must lie in [1, {_MOST_CONNECTIONS}], got {max_concurrent}."
        )
