"""Event loop of a live engine, and the settings that its sessions share.

The requests live in an event loop in a thread of the engine; the policy and its judge run in the
caller's thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from deepprune.answers import EquivalenceChecker
from deepprune.core.errors import InputError
from deepprune.core.options import Count, Gt, checked
from deepprune.generation.backend import Backend, PromptFormat, Sampling

T = TypeVar("T")
_log = logging.getLogger(__name__)
Mode = Literal["stream", "resubmit"]

CLOSE_S = 30.0
"""Maximum wait for requests to end, in seconds."""

TASK = "deepprune-trace"
"""Name of the event loop's tasks that hold a request."""


@checked
class EngineLoop:
    """Runs a backend in an event loop of its own; `LiveEngine` opens sessions on it.

    Args:
        backend: Generates the traces.
        prompt: Prompt of questions and of forced answers.
        sampling: Sampling parameters.
        mode: How traces reach a checkpoint: ``stream`` or ``resubmit``.
        force_every: Tokens between answers forced out of every trace, for judges that read forced
            answers and for recordings; ``None``: only when a policy asks.
        force_tokens: Maximum number of tokens of a forced answer.
        stall_s: Longest wait for the next token, in seconds; then the engine counts as lost.
        prior_length: Mean trace length expected before the first question, in tokens, for policies
            that spend a budget of trace lengths; ``None``: a quarter of ``sampling.max_tokens``.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: PromptFormat,
        sampling: Sampling,
        *,
        mode: Mode = "stream",
        force_every: Count | None = None,
        force_tokens: Count = 20,
        stall_s: Annotated[float, Gt(0)] = 300.0,
        prior_length: Annotated[float, Gt(0)] | None = None,
    ) -> None:
        self.backend = backend
        self.prompt = prompt
        self.sampling = sampling
        self.mode = mode
        self.force_every = force_every
        self.force_tokens = force_tokens
        self.stall_s = stall_s
        self.prior_length = sampling.max_tokens / 4 if prior_length is None else prior_length
        self.checker = EquivalenceChecker()
        self.n_tokens = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def model(self) -> str:
        """Name of the model in records."""
        return self.backend.model

    def facts(self) -> dict[str, Any]:
        """Return sampling and prompt, for the manifest of a store."""
        prompt = asdict(self.prompt)
        del prompt["answer_style"]  # which the manifest has in a field of its own
        return {
            **asdict(self.sampling),
            "stop": list(self.sampling.stop),
            **({"omitted": list(self.backend.omitted)} if self.backend.omitted else {}),
            "mode": self.mode,
            "force_every": self.force_every,
            "force_tokens": self.force_tokens,
            **prompt,
        }

    def start(self) -> None:
        """Open the backend, unless it is open.

        Raises:
            InputError: If the backend cannot do what was configured.
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
        _log.warning("the engine does not close; it is abandoned")
