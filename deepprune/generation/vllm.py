"""Generation by vLLM on this machine: its V1 engine, driven from outside by requests and aborts."""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import lru_cache
from typing import Annotated, Any, Literal
from uuid import uuid4

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from deepprune.core.errors import InputError
from deepprune.core.options import Count, Gt, Le, checked
from deepprune.core.types import FinishReason, Question
from deepprune.generation.backend import (
    Chunk,
    EngineError,
    PromptFormat,
    Request,
    RequestError,
    Sampling,
    token_confidence,
)

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # a fork would inherit the locks of the threads of a judge, and hang
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""Set where the user has not."""

_DIED = "vLLM's engine process died; what it logged above says why."
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # decoded from bytes that are not a whole character yet
_SHUTDOWN_S = 30.0
_GRACE_S = 5.0  # before a process that does not end is killed
_CORE = "EngineCore"  # prefix of the names of vLLM's processes
_CONTEXT = 16  # tokens before new ones that decide how these decode; a character has at most 4
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


@checked
class VllmBackend:
    """Runs one ``AsyncLLM``, each trace a request; vLLM computes in processes of its own.

    The traces of a question are separate requests of one prompt, which the prefix cache reads once.
    A trace that continues and an answer that is forced out of it are further requests: prompt and
    tokens so far are in the cache. Tokens are decoded here, one by one, however many arrive at a
    time.

    Args:
        model: Folder or hub name of the model.
        name: Name of the model in records; ``None``: the last part of ``model``.
        revision: Revision of a model on the hub.
        tokenizer: Folder or hub name of the tokenizer; ``None``: the model's.
        dtype: Type of weights and activations: ``auto``, ``bfloat16``, ``float16``, ``float32``.
        max_model_len: Maximum number of tokens of prompt, trace and forced answer; ``None``: the
            model's.
        gpu_memory_utilization: Share of each GPU's memory that vLLM takes for weights and cache, in
            (0, 1]; the judge can use the rest.
        tensor_parallel_size: GPUs over which the model is split.
        max_num_seqs: Maximum number of running requests, others wait; ``None``: vLLM's default.
        enforce_eager: Run without compilation and CUDA graphs: starts sooner, runs slower.
        trust_remote_code: Run code that comes with the model on this machine.
        extra: Further arguments of vLLM's ``AsyncEngineArgs``.
    """

    token_counter = "generator"
    can_continue = True  # prompts are token ids
    omitted = ()

    def __init__(
        self,
        model: str = "Qwen/Qwen3-8B",
        *,
        name: str | None = None,
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto",
        max_model_len: Count | None = None,
        gpu_memory_utilization: Annotated[float, Gt(0), Le(1)] = 0.7,
        tensor_parallel_size: Count = 1,
        max_num_seqs: Count | None = None,
        enforce_eager: bool = False,
        trust_remote_code: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = name or model.rstrip("/").rpartition("/")[2]
        self.seats: int | None = None  # known once it is open
        self._arguments: dict[str, Any] = {
            "model": model,
            "revision": revision,
            "tokenizer": tokenizer,
            "dtype": dtype,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel_size,
            "max_num_seqs": max_num_seqs,
            "enforce_eager": enforce_eager,
            "trust_remote_code": trust_remote_code,
            **(extra or {}),
        }
        self._engine: Any = None
        self._loading: asyncio.Task[Any] | None = None
        self._is_given_up = threading.Event()
        self._others: set[int | None] = set()

    async def open(self, format: PromptFormat, sampling: Sampling) -> None:
        """Load the model, which takes minutes for a large one; `close` ends a cancelled loading.

        Raises:
            InputError: If vLLM is missing or refuses an argument, or the model refuses the prompt.
            EngineError: If vLLM does not start.
        """
        if importlib.util.find_spec("vllm") is None:
            raise InputError("engine=vllm needs vLLM: pip install 'deepprune[vllm]'.")
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._is_given_up.clear()
        self._others = {process.pid for process in multiprocessing.active_children()}
        self._loading = asyncio.create_task(asyncio.to_thread(self._load, format, sampling))
        self._engine = await asyncio.shield(self._loading)
        self._loading = None

    def _load(self, format: PromptFormat, sampling: Sampling) -> Any:
        """Return the engine. Runs in a thread, so that the event loop can be interrupted."""
        config = _engine_config(self._arguments, sampling.logprobs)
        self._max_model_len = int(config.model_config.max_model_len)
        if sampling.max_tokens >= self._max_model_len:
            raise InputError(
                f"sampling.max_tokens={sampling.max_tokens} and a prompt must fit into "
                f"engine.max_model_len={self._max_model_len}: lower the one or raise the other."
            )
        example = Request(Question("", "", "1 + 1 = ?"), format, sampling, 1, 0)
        try:
            self.sampling_parameters(example)
        except Exception as error:  # vLLM's own class, or pydantic's
            raise InputError(f"vLLM refuses a value of sampling: {_line(error)}") from error
        self._read_tokenizer(config.model_config, example)
        self.seats = int(config.scheduler_config.max_num_seqs)
        if self._is_given_up.is_set():
            raise EngineError("the engine is closed.")
        return _start(config)

    def _read_tokenizer(self, config: Any, example: Request) -> None:
        """Read the model's tokenizer and check it on one prompt, before weights are loaded."""
        from vllm.tokenizers import cached_tokenizer_from_config

        tokenizer: Any = cached_tokenizer_from_config(config)
        rust = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(rust, Tokenizer):
            raise InputError(
                f"engine=vllm needs a tokenizer of the package tokenizers, and that of "
                f"{self.model!r} is a {type(tokenizer).__name__}: name one with engine.tokenizer, "
                "or serve the model and take engine=openai."
            )
        self._tokenizer = rust
        format = example.format

        @lru_cache(maxsize=256)
        def prompt_ids(question: Question) -> tuple[int, ...]:
            if not format.chat:
                return tuple(tokenizer(format.user(question)).input_ids)
            ids = tokenizer.apply_chat_template(
                format.messages(question),
                add_generation_prompt=True,
                return_dict=False,
                **format.chat_arguments,
            )
            return tuple(ids)

        try:
            prompt_ids(example.question)
        except Exception as error:  # a template is a program and raises any class
            raise InputError(
                f"the chat template of {self.model!r} refuses this prompt: {_line(error)}. Change "
                "prompt.system or prompt.chat_arguments, or take prompt.chat=false."
            ) from error
        self._prompt_ids = prompt_ids

    async def stream(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Generate; closing or cancelling the generator aborts the request.

        Raises:
            RequestError: If vLLM refuses or fails the request.
            EngineError: If the engine is lost or closed.
        """
        from vllm.exceptions import VLLMError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._engine is None:
            raise EngineError("the engine is closed.")
        ids = self._all_ids(request)
        text = _Text(self._tokenizer, ids, request)
        try:
            parameters = self.sampling_parameters(request)
            # closing this aborts the request
            generated = self._engine.generate(tokens_input(ids), parameters, uuid4().hex)
            async with aclosing(generated) as outputs:
                async for output in outputs:
                    chunk = text.add(output.outputs[0])
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
        except EngineDeadError as error:
            raise EngineError(_DIED) from error
        except (VLLMError, ValueError) as error:
            if self._engine is None or self._engine.errored:
                raise EngineError(_DIED) from error
            raise RequestError(f"vLLM fails the request: {_line(error)}") from error

    def sampling_parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        return SamplingParams(
            max_tokens=request.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=request.seed,
            logprobs=sampling.logprobs or None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _all_ids(self, request: Request) -> list[int]:
        """Return the tokens of prompt, text and suffix."""
        prompt = self._prompt_ids(request.question)
        name, budget = request.question.question_id, request.sampling.max_tokens
        if len(prompt) + budget > self._max_model_len:
            raise RequestError(
                f"the prompt of question {name!r} has {len(prompt)} tokens and "
                f"sampling.max_tokens is {budget}: more than engine.max_model_len="
                f"{self._max_model_len} holds."
            )
        ids = [*prompt, *(request.token_ids or self._encode(request.text))]
        if request.suffix:
            ids += self._encode(request.suffix)
            if len(ids) + request.max_tokens > self._max_model_len:
                raise RequestError(
                    f"an answer forced out of question {name!r} needs {len(ids)} tokens and up to "
                    f"{request.max_tokens} of its own: more than engine.max_model_len="
                    f"{self._max_model_len} holds. Raise it, or lower sampling.max_tokens."
                )
        return ids

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    async def close(self) -> None:
        await self._end_loading()
        engine, self._engine, self.seats = self._engine, None, None
        if engine is None:
            return
        engine.shutdown(timeout=_SHUTDOWN_S)
        if engine.output_handler is not None:
            await asyncio.wait([engine.output_handler], timeout=_SHUTDOWN_S)
        engine.engine_core.resources.ctx.destroy(linger=0)  # vLLM does not close it

    async def _end_loading(self) -> None:
        """End a loading that was interrupted by ending its process."""
        loading, self._loading = self._loading, None
        if loading is None:
            return
        self._is_given_up.set()
        began = time.monotonic()
        while not loading.done():
            for process in multiprocessing.active_children():
                if process.name.startswith(_CORE) and process.pid not in self._others:
                    is_late = time.monotonic() > began + _GRACE_S
                    process.kill() if is_late else process.terminate()
            await asyncio.wait([loading], timeout=0.2)
        with suppress(Exception):  # the loading may have succeeded before
            self._engine = loading.result()


class _Text:
    """Decodes the tokens of a request, which follow the tokens ``before``.

    A character that is split over tokens comes with the last of them; an incomplete one at the end
    of a trace is dropped. A stop text ends the request at its last character, also if it began
    before the request.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], request: Request) -> None:
        self._tokenizer = tokenizer
        context = list(before[-_CONTEXT:])
        n = len(context)
        while n and tokenizer.decode(context[:n]).endswith(_UNFINISHED):
            n -= 1
        self._stream = DecodeStream(ids=context[:n], skip_special_tokens=True)
        for token in context[n:]:
            self._decode(token)
        self._stop = request.sampling.stop
        self._n_tail = max(map(len, self._stop), default=1) - 1
        self._tail = (request.text + request.suffix)[-self._n_tail :] if self._n_tail else ""
        self._k = request.sampling.logprobs

    def add(self, completion: Any) -> Chunk:
        """Decode a delta of vLLM: one token, or several that were not read one by one."""
        reason = _finish_reason(completion.finish_reason)
        text, token_end = "", []
        for token in completion.token_ids:
            piece = self._decode(token)
            if self._stop and piece and (length := self._stopped(piece)) is not None:
                token_end.append(len(text) + length)
                text += piece[:length]
                reason = FinishReason.STOP
                break
            text += piece
            token_end.append(len(text))
        n = len(token_end)
        confidence = token_confidences(completion.logprobs, self._k)[:n] if self._k else ()
        return Chunk(text, token_end, tuple(completion.token_ids[:n]), confidence, reason)

    def _decode(self, token: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception:  # invalid bytes, vllm-project/vllm#17448; the error has no own class
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token) or ""

    def _stopped(self, piece: str) -> int | None:
        """Return the characters of ``piece`` up to the end of a stop text; ``None`` without one."""
        seen = self._tail + piece
        ends = []
        for stop in self._stop:
            at = seen.find(stop, max(0, len(self._tail) - len(stop) + 1))
            if at >= 0:
                ends.append(at + len(stop) - len(self._tail))
        self._tail = seen[-self._n_tail :] if self._n_tail else ""
        return min(ends, default=None)


def token_confidences(logprobs: Any, k: int) -> list[float]:
    """Return the confidence of each token.

    Args:
        logprobs: vLLM's ``FlatLogprobs``: for each token the sampled one, then the top k; where
            deltas were merged, a sampled one among the top k occurs once. The last k are the top k.
        k: Number of log-probabilities that were requested.
    """
    values = logprobs.logprobs
    return [token_confidence(values[end - k : end], k) for end in logprobs.end_indices]


def _finish_reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    if reason == "abort":
        raise EngineError("vLLM was shut down.")
    if reason not in _FINISH:
        raise RequestError(f"vLLM ended the request with {reason!r}.")
    return _FINISH[reason]


def _engine_config(arguments: dict[str, Any], logprobs: int) -> Any:
    """Return vLLM's configuration; reads the configuration of the model, not its weights."""
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform

    ours: dict[str, Any] = {
        "enable_prefix_caching": True,
        "max_logprobs": max(20, logprobs),
        # vLLM's own 128 on a CPU would never cache a shorter prompt
        "block_size": 32 if current_platform.is_cpu() else None,
    }
    try:
        return AsyncEngineArgs(**ours | arguments).create_engine_config()
    except (TypeError, ValueError, OSError, NotImplementedError) as error:
        raise InputError(f"vLLM refuses the model or an argument of engine: {_line(error)}") from (
            error
        )


def _start(config: Any) -> Any:
    from vllm.v1.engine.async_llm import AsyncLLM

    class Engine(AsyncLLM):  # type: ignore[misc]
        """Silences the finaliser.

        It shuts the engine down once more, also one whose loading was interrupted; Python prints
        the error of that as "Exception ignored in AsyncLLM.__del__".
        """

        def __del__(self) -> None:
            try:  # noqa: SIM105  # at the interpreter's exit this module's names are gone
                super().__del__()
            except Exception:
                pass

    # Ctrl-C in a terminal reaches all processes. vLLM's must outlive it, so that we can abort and
    # close; they inherit the signals that this thread blocks.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return Engine.from_vllm_config(config)
    except Exception as error:
        raise EngineError(
            f"vLLM does not start: {_line(error)} If memory is short, lower engine.max_model_len; "
            "engine.gpu_memory_utilization is its share of the GPU."
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _line(error: BaseException) -> str:
    """Return an error's message in one line; the first line of pydantic's."""
    errors = getattr(error, "errors", None)
    if callable(errors):
        first = errors()[0]
        return " ".join([*(f"{name}:" for name in first["loc"][:1]), *str(first["msg"]).split()])
    if not str(error) and error.__cause__ is not None:
        return _line(error.__cause__)
    return " ".join(str(error).split()) or type(error).__name__
