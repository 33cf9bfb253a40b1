"""Client of any OpenAI-compatible server: vLLM, SGLang, llama.cpp, hosted ones.

Servers differ in their abilities, and few report them: `OpenAIBackend.open` tests them by requests
of a few tokens. A trace continues from a prefix by ``/v1/completions``, whose prompt we write, or
by a chat whose last message is the assistant's and stays open (prefill).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from deepprune.core.errors import InputError
from deepprune.core.files import name_of
from deepprune.core.options import Ge, Gt, Le, checked
from deepprune.core.types import FinishReason, Question
from deepprune.generation.backend import (
    Chunk,
    EngineError,
    PromptFormat,
    Request,
    RequestError,
    Sampling,
)
from deepprune.generation.openai.faults import Faults, Refused
from deepprune.generation.openai.prompts import LocalTokenizer, Prompts, ServerTokenizer
from deepprune.generation.openai.stream import Reader, think_start

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream

_log = logging.getLogger(__name__)

_NOT_THERE = (400, 404, 405, 422, 501)  # statuses of an address that the server does not have
_NEEDED = ("model", "messages", "prompt", "stream", "max_tokens")  # fields of every request
_MOST_CONNECTIONS = 1000  # of the openai client's pool

# A new turn would begin with a number or a sentence; only a continuation begins with the 0 of 10.
_COUNTING = Question("", "", "Count from 1 to 40, separated by commas.")
_BEGUN, _GOES_ON = "1, 2, 3, 4, 5, 6, 7, 8, 9, 1", "0"

Continuation = Literal["completions", "continue_final_message", "prefill"]
"""How a server continues a prefix: a prompt, a chat with that field, or a chat without it."""


@checked
class OpenAIBackend:
    """Generation on an OpenAI-compatible server.

    The openai client retries a request that fails before its answer begins. A stream that breaks
    continues from what it has generated, if the server can do that.

    Tokens are the server's own where it reports their ids (vLLM) or their log-probabilities;
    otherwise each piece of a stream counts as one, and the last is corrected by the server's count.

    A server with a reasoning parser sends the thoughts separately: they are put back before the
    answer, within ``<think>`` and ``</think>``. For a thinking model, prefer completions: a chat
    template may move or drop the thoughts of a message that it continues.

    Args:
        base_url: Address of the server, e.g. ``http://localhost:8000/v1``.
        model: The server's name of the model; ``None``: the only one that it serves.
        name: Name of the model in records; ``None``: the server's name, of a path the last part.
        api: ``completions``, ``chat``, or ``auto``: completions if the server supports them.
        tokenizer: Folder or hub name of the model's tokenizer, whose chat template then writes the
            prompts of completions; ``None``: the server's own (``/tokenize``, vLLM).
        api_key_env: Environment variable with the key; none is needed where it is unset.
        timeout_s: Longest wait for a connection or for the next byte, in seconds.
        max_retries: Maximum number of consecutive failures that are retried.
        max_concurrent: Maximum number of running requests; others wait.
        extra_body: Further fields of every request, e.g. ``{"min_p": 0.05}``.
        omit: Fields that requests lack, e.g. ``[seed]``, for a server that refuses them. ``seed``
            and ``top_k`` are left out, and ``max_tokens`` is named ``max_completion_tokens``,
            wherever a server refuses them.

    Raises:
        InputError: If a value is out of its range or ``base_url`` carries a key.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000/v1",
        model: str | None = None,
        *,
        name: str | None = None,
        api: Literal["auto", "completions", "chat"] = "auto",
        tokenizer: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: Annotated[float, Gt(0)] = 120.0,
        max_retries: Annotated[int, Ge(0)] = 5,
        max_concurrent: Annotated[int, Ge(1), Le(_MOST_CONNECTIONS)] = 256,
        extra_body: Mapping[str, Any] | None = None,
        omit: Sequence[str] = (),
    ) -> None:
        _check_no_key(base_url, api_key_env)
        if needed := [field for field in omit if field in _NEEDED]:
            raise InputError(f"engine.omit must not be {needed[0]}: no request goes without it.")
        self.base_url = base_url.rstrip("/")
        self.continuation: Continuation | None = None
        self._model, self._name = model, name
        self._api = api
        self._tokenizer_source = tokenizer
        key = os.environ.get(api_key_env, "")
        self._faults = Faults(self.base_url, key, api_key_env, timeout_s)
        self._max_retries = max_retries
        self.seats = max_concurrent
        self._extra_body = dict(extra_body or {})
        self._prompts = Prompts()
        self._fields: dict[str, Any] = {}  # that the server accepts beside the usual ones
        self._omit = frozenset(omit)
        self._left_out: set[str] = set()  # of the usual fields
        self._has_ids = False
        self._client: AsyncOpenAI | None = None

    @property
    def model(self) -> str:
        """Name of the model in records; if not configured, known once the backend is open."""
        return self._name or name_of(self._model or "")

    @property
    def token_counter(self) -> str:
        """``generator`` if the server reports tokens, else ``chunks``: pieces of a stream."""
        return "generator" if self._has_ids or "logprobs" in self._fields else "chunks"

    @property
    def omitted(self) -> list[str]:
        """Sampling parameters that requests lack: of ``omit``, or refused by the server."""
        return sorted(self._left_out - {"max_tokens"})

    @property
    def can_continue(self) -> bool:
        """Whether the server continues a prefix; ``continuation`` says how."""
        return self.continuation is not None

    async def open(self, format: PromptFormat, sampling: Sampling) -> None:
        """Connect, choose the model and test the abilities of the server.

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

        for library in ("httpx", "httpx2"):  # they log every request
            logging.getLogger(library).setLevel(logging.WARNING)
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._faults.key or "none",
            timeout=self._faults.timeout_s,
            max_retries=self._max_retries,
        )
        self._free_seats = asyncio.Semaphore(self.seats)
        greedy = replace(sampling, temperature=0.0)
        try:
            self._model = await self._only_model()
            await self._choose_api(Request(_COUNTING, format, greedy, max_tokens=2, seed=0))
        except RequestError as error:
            raise EngineError(f"{self.base_url} cannot be used: {error}") from None
        _log.info(
            "%s at %s continues by %s, tokens counted by %s",
            self._model,
            self.base_url,
            self.continuation,
            self.token_counter,
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # Abilities of the server

    async def _only_model(self) -> str:
        listed = await self._offered("/models")
        data = listed.get("data") if isinstance(listed, dict) else None
        names = [str(m["id"]) for m in data or () if isinstance(m, dict) and "id" in m]
        shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
        if self._model is None and len(names) != 1:
            raise InputError(
                f"engine.model must say which model of {self.base_url} generates; it lists "
                f"{shown or 'none'}."
            )
        if self._model is not None and names and self._model not in names:
            raise InputError(
                f"engine.model must be one that {self.base_url} serves ({shown}), "
                f"got {self._model!r}."
            )
        return self._model or names[0]

    async def _choose_api(self, trial: Request) -> None:
        refusal = ""
        if self._api != "chat":
            self.continuation = "completions"
            refusal = await self._refusal_of_completions(trial)
            if not refusal:
                return
            if self._api == "completions":
                raise InputError(
                    f"engine.api=completions cannot be had of {self.base_url}: {refusal}."
                )
        self.continuation = None
        if not trial.format.chat:
            raise InputError(
                f"prompt.chat=false needs /v1/completions, which {self.base_url} has not"
                f"{': ' + refusal if refusal else ''}; take prompt.chat=true."
            )
        if chat_refusal := await self._learn_features(trial):
            raise InputError(f"{self.base_url} has no chat for this request: {chat_refusal}.")
        await self._find_prefill(trial)
        if not self.can_continue:
            _log.warning("%s cannot go on from a prefix: %s", self.base_url, refusal or "chat only")
        elif trial.format.think_end:
            _log.warning(
                "a chat template may drop the thoughts of a message that it goes on with: "
                "engine.tokenizer=MODEL and engine.api=completions continue exactly"
            )

    async def _refusal_of_completions(self, trial: Request) -> str:
        """Find the tokenizer and the features of completions; return why there are none, or ''."""
        if self._tokenizer_source is not None:
            self._prompts = Prompts(LocalTokenizer(self._tokenizer_source))
        else:
            url = self.base_url.removesuffix("/v1") + "/tokenize"
            if await self._offered(url, {"messages": trial.format.messages(trial.question)}):
                self._prompts = Prompts(ServerTokenizer(url, self._ask))
            elif trial.format.chat:
                return (
                    "a chat prompt for /v1/completions needs the model's chat template: give "
                    "engine.tokenizer (its folder or hub name), or take prompt.chat=false"
                )
        return await self._learn_features(trial)

    async def _learn_features(self, trial: Request) -> str:
        """Find out which fields are accepted; return why none are, or an empty text."""
        k, is_chat = trial.sampling.logprobs, self.continuation != "completions"
        usage = {"stream_options": {"include_usage": True}}
        n = max(1, k)  # log-probabilities show tokens too
        shown = {"logprobs": True, "top_logprobs": n} if is_chat else {"logprobs": n}
        keep_stop = {"include_stop_str_in_output": True, "no_stop_trim": True}  # vLLM and SGLang
        ours = {"return_token_ids": True} | (keep_stop if trial.sampling.stop else {})
        # What a server may refuse: what it names, or one after the other
        groups = [*({name} for name in ours), {*shown}, {*usage}]
        groups += [{"seed"}, *([{"top_k"}] if trial.sampling.top_k else []), {"max_tokens"}]
        groups = [group for group in groups if not group <= self._omit]
        trial, refusal = replace(trial, sampling=replace(trial.sampling, logprobs=0)), ""
        self._fields, self._left_out = usage | shown | ours, {*self._omit}
        while True:
            self._has_ids = False
            try:
                seen = await self._try(trial)
                break
            except Refused as refused:
                refusal = str(refused)
                if refused.status not in (400, 422):
                    return refusal
                if not groups:
                    return f"{refusal}; engine.omit=[FIELD] leaves a field out of requests"
                named = [group for group in groups if group & {*re.findall(r"\w+", refusal)}]
                for group in named or groups[:1]:
                    groups.remove(group)
                    self._left_out |= group
        self._fields = {n: v for n, v in self._fields.items() if n not in self._left_out}
        self._left_out -= {*usage, *shown, *ours}
        self._has_ids = seen.has_ids
        if not seen.has_logprobs:
            self._fields = self._without_logprobs()
        if k and not seen.has_logprobs:
            raise InputError(
                f"sampling.logprobs={k} needs log-probabilities, and {self.base_url} gives "
                f"none{': ' + refusal if refusal else ''}; take sampling.logprobs=0."
            )
        self._say_left_out()
        return ""

    def _say_left_out(self) -> None:
        said = [f"without {' and '.join(self.omitted)}"] if self.omitted else []
        if "max_tokens" in self._left_out:
            said.append("with max_completion_tokens instead of max_tokens")
        if said:
            _log.warning("requests to %s go %s", self.base_url, ", and ".join(said))

    def _without_logprobs(self) -> dict[str, Any]:
        return {k: v for k, v in self._fields.items() if "logprobs" not in k}

    async def _find_prefill(self, trial: Request) -> None:
        """Find out how a chat continues: only a continuation goes on with ``_GOES_ON``."""
        opened = f"{think_start(trial.format.think_end)}\n" if trial.format.think_end else ""
        sampling = replace(trial.sampling, stop=(), logprobs=0)
        trial = replace(trial, text=opened + _BEGUN, sampling=sampling, max_tokens=4)
        ways: tuple[Continuation, ...] = ("continue_final_message", "prefill")
        for self.continuation in ways:
            with suppress(Refused):
                if (await self._try(trial)).text.startswith(_GOES_ON):
                    return
        self.continuation = None

    async def _try(self, trial: Request) -> Reader:
        done = Reader(trial)
        async with aclosing(self.stream(trial, done)) as chunks:
            async for _ in chunks:
                pass
        return done

    # Requests

    async def stream(
        self, request: Request, done: Reader | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Generate. Closing the generator closes the connection, which ends the request.

        A stream that breaks continues from what is ``done``.

        Raises:
            RequestError: If the server refuses the request, or fails it too often.
            EngineError: If the server is gone or refuses the key.
        """
        done, n_breaks = done or Reader(request), 0
        async with self._free_seats:
            while True:
                events = await self._begin(request, done)
                try:
                    async with aclosing(done.chunks(events)) as chunks:
                        async for chunk in chunks:
                            n_breaks = 0
                            yield chunk
                    return
                except Exception as error:
                    failure = self._faults.read(error)
                # outside the handler: no error carries the client's, which may show the key
                if done.n_tokens >= request.max_tokens:
                    yield Chunk("", (), finish_reason=FinishReason.LENGTH)
                    return
                if done.text and not self.can_continue:
                    await self._offered("/models")  # raises if the whole server is gone
                    raise RequestError(
                        f"{failure}, after {done.n_tokens} tokens, and the server cannot go on "
                        "from a prefix"
                    )
                if type(failure) is not RequestError or n_breaks >= self._max_retries:
                    raise self._final(failure)
                await asyncio.sleep(min(8.0, 0.5 * 2**n_breaks) * random.uniform(0.5, 1.0))
                n_breaks += 1

    async def _begin(self, request: Request, done: Reader) -> AsyncStream[object]:
        """Send a request for what follows ``done``."""
        from openai import AsyncStream

        sampling, format = request.sampling, request.format
        needs_logprobs = sampling.logprobs > 0 or not self._has_ids
        limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        body: dict[str, Any] = {
            limit: request.max_tokens - done.n_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": (request.seed + done.n_tokens) % 2**31,
            "stream": True,
            **(self._fields if needs_logprobs else self._without_logprobs()),
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.continuation == "completions":
            path = "/completions"
            body["prompt"] = await self._prompts.of(request, done)
        else:
            path = "/chat/completions"
            if format.chat_arguments:
                body["chat_template_kwargs"] = dict(format.chat_arguments)
            body["messages"] = format.messages(request.question)
            if begun := request.text + request.suffix + done.text:
                body["messages"].append({"role": "assistant", "content": begun})
                if self.continuation == "continue_final_message":
                    body |= {"continue_final_message": True, "add_generation_prompt": False}
        kept = {name: value for name, value in body.items() if name not in self._left_out}
        # events as dicts: the client's typed ones cost more time than the network, and lack fields
        events: AsyncStream[object] = await self._ask(
            path, kept | self._extra_body, stream=True, stream_cls=AsyncStream[object]
        )
        return events

    async def _offered(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return an answer, or ``None`` if the server does not have the address."""
        try:
            return await self._ask(url, body)
        except Refused as refused:
            if refused.status not in _NOT_THERE:
                raise
            return None

    async def _ask(self, url: str, body: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Return the answer of an address: to GET without a body, else to POST."""
        if self._client is None:
            raise EngineError("the backend is closed")
        try:
            if body is None:
                return await self._client.get(url, cast_to=object)
            return await self._client.post(
                url, body={"model": self._model, **body}, cast_to=object, **options
            )
        except Exception as error:
            failure = self._faults.read(error)
        raise self._final(failure)

    def _final(self, failure: EngineError | RequestError) -> Exception:
        """Return the error of a request that has been retried."""
        if type(failure) is not RequestError:
            return failure
        return RequestError(f"{failure}; given up after {self._max_retries} retries")


def _check_no_key(base_url: str, api_key_env: str) -> None:
    """Check that neither argument is or contains a key; no message shows what could be one."""
    if any(mark in base_url for mark in "@?#"):
        raise InputError(
            "engine.base_url is recorded and must not carry a key: no user, password, query or "
            "fragment. Put the key into an environment variable and name that by "
            "engine.api_key_env."
        )
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(
            f"engine.base_url must be like http://localhost:8000/v1, got {base_url!r}."
        )
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", api_key_env):
        raise InputError(
            "engine.api_key_env must be the name of an environment variable, in capitals; what it "
            "got is not shown, since it could be a key."
        )
