"""Traces pruned while they are generated: a session over any `generation.backend.Backend`.

Each trace is a request of its own. Two ways lead to a checkpoint:

    stream    every trace runs on while the policy thinks; a stopped one is aborted. Nothing waits,
              and what a stopped trace has generated meanwhile is lost.
    resubmit  every trace is generated up to the checkpoint and goes on as a new request from
              prompt + prefix, which the engine's prefix cache has. No token is lost; the traces
              wait for the policy.

A checkpoint shows the traces as they were there, however far they have run on since, so that a
policy decides as it would on a recording of them (`pruning.replay`).

The requests live in an event loop in a thread of the engine; the policy and its judge in the
caller's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from deepprune.answers import EquivalenceChecker
from deepprune.core.errors import InputError
from deepprune.core.types import Question, Trace
from deepprune.generation.backend import Backend, PromptFormat, Sampling
from deepprune.generation.live_session import CLOSE_S, TASK, LiveSession
from deepprune.generation.live_trace import Status, TraceState

__all__ = ["LiveEngine", "LiveSession", "Status", "TraceState"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
Mode = Literal["stream", "resubmit"]
MODES = ("stream", "resubmit")


class LiveEngine:
    """Generates traces on a backend; one event loop, any number of sessions.

    Args:
        backend: What generates.
        prompt: How questions are asked and answers forced.
        sampling: How traces are sampled.
        mode: The way to a checkpoint: ``stream`` or ``resubmit``.
        force_every: Force an answer out of every trace each time it has so many tokens more, for
            judges that read forced answers and for recordings; ``None``: only when a policy asks.
        force_tokens: Most tokens of a forced answer.
        stall_s: Give the engine up when no token has come for so long, in seconds.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: PromptFormat,
        sampling: Sampling,
        *,
        mode: Mode = "stream",
        force_every: int | None = None,
        force_tokens: int = 20,
        stall_s: float = 300.0,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"live.mode must be one of {', '.join(MODES)}, got {mode!r}.")
        if force_every is not None and force_every < 1:
            raise ValueError(
                f"live.force_every must be at least 1 token, or null, got {force_every}."
            )
        if force_tokens < 1:
            raise ValueError(f"live.force_tokens must be at least 1, got {force_tokens}.")
        if stall_s <= 0:
            raise ValueError(f"live.stall_s must be positive, got {stall_s:g}.")
        self.backend = backend
        self.prompt = prompt
        self.sampling = sampling
        self.mode = mode
        self.force_every = force_every
        self.force_tokens = force_tokens
        self.stall_s = stall_s
        self.checker = EquivalenceChecker()
        self.n_tokens = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def model(self) -> str:
        """Name of the model in records."""
        return self.backend.model

    @property
    def token_counter(self) -> str:
        """Who counts the tokens, see `Backend.token_counter`."""
        return self.backend.token_counter

    def facts(self) -> dict[str, Any]:
        """How traces are sampled, for the manifest of a store."""
        return {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k,
            "max_tokens": self.sampling.max_tokens,
            "stop": list(self.sampling.stop),
            "logprobs": self.sampling.logprobs,
            "mode": self.mode,
            "force_every": self.force_every,
            "force_tokens": self.force_tokens,
            "template": self.prompt.template,
            "system": self.prompt.system,
            "chat": self.prompt.chat,
            "chat_arguments": dict(self.prompt.chat_arguments),
            "think_end": self.prompt.think_end,
            "force": self.prompt.force,
        }

    def start(self) -> None:
        """Open the backend, if it is not open; `open` and `generate` do so where need be.

        Raises:
            InputError: If what was asked for cannot be had.
            EngineError: If the backend does not start.
        """
        if self._thread is not None:
            return
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="deepprune-engine", daemon=True
        )
        self._thread.start()
        try:
            self.call(self.backend.open(self.prompt, self.sampling))
            if not self.backend.can_continue and (self.mode == "resubmit" or self.force_every):
                asked = "live.mode=resubmit" if self.mode == "resubmit" else "live.force_every"
                raise InputError(
                    f"{asked} needs a server that goes on from a prefix, by /v1/completions or by "
                    f"an assistant message that it continues; the one of {self.model!r} does "
                    "neither: take live.mode=stream live.force_every=null."
                )
        except BaseException:
            self.close()
            raise

    def open(self, question: Question, model: str, n_traces: int, seed: int) -> LiveSession:
        """Begin a question; trace i of it is sampled with a seed of its own.

        Raises:
            ValueError: If ``model`` is not the one that the backend serves.
        """
        self.start()
        if model != self.model:
            raise ValueError(f"the engine serves {self.model!r}, asked for {model!r}.")
        seats = self.backend.seats
        if self.mode == "stream" and seats is not None and n_traces > seats:
            _log.warning(
                "%d traces share the engine's %d seats: while some wait for one, the others run on "
                "past the checkpoint, and pruning saves less; live.mode=resubmit does not mind",
                n_traces,
                seats,
            )
        return LiveSession(self, question, n_traces, seed)

    def generate(self, question: Question, sample_id: int, seed: int) -> Future[Trace]:
        """One whole trace; its answer is extracted, not yet classed nor compared.

        It has the seed that trace ``sample_id`` of ``open(question, ..., seed)`` has. Cancelling
        the future aborts the request. It raises RequestError or EngineError.
        """
        self.start()
        assert self._loop is not None
        coroutine = _whole_trace(self, question, sample_id, seed)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the engine's loop and wait for it; an interrupt cancels it."""
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End all requests, close the backend and the loop; can be called again."""
        self.checker.close()
        if self._thread is None or self._loop is None:
            return
        thread, self._thread = self._thread, None
        try:
            self.call(_close_all(self.backend))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(CLOSE_S)
            if not thread.is_alive():
                self._loop.close()


async def _close_all(backend: Backend) -> None:
    """Cancel every request, then close what serves them."""
    mine = asyncio.current_task()
    tasks = [t for t in asyncio.all_tasks() if t is not mine and t.get_name().startswith(TASK)]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_S)
    try:
        await asyncio.wait_for(backend.close(), 3 * CLOSE_S)
    except TimeoutError:
        _log.warning("the engine does not close; it is left behind")


async def _whole_trace(engine: LiveEngine, question: Question, sample_id: int, seed: int) -> Trace:
    session = LiveSession(engine, question, 1, seed, first_sample=sample_id)
    task = asyncio.current_task()
    assert task is not None
    task.set_name(TASK)
    try:
        await session.start_requests(1)
        await session.reach(None, force=False)
        (trace,) = session.records()
        return trace
    finally:
        await session.end_requests()
