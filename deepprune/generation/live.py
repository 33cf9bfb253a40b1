"""Traces pruned while they are generated: a session over any `generation.backend.Backend`.

Each trace is a separate request. There are two ways to reach a checkpoint:

    stream    every trace keeps running while the policy decides; a stopped one is aborted. Nothing
              waits, and the tokens of a stopped trace after the checkpoint are lost.
    resubmit  every trace is generated up to the checkpoint and continues as a new request from
              prompt + prefix, which the engine's prefix cache has. No token is lost; the traces
              wait for the policy. Only the next end of a trace (`ANY_FINISHED`) cannot be foreseen:
              all pause once it is known, and what they have beyond is shown later.

A checkpoint shows the traces as they were at that point, however far they have run since, so that
a policy decides as it would on a recording of them (`pruning.replay`).
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future

from deepprune.core.types import Question, Trace
from deepprune.generation.engine_loop import EngineLoop
from deepprune.generation.live_session import LiveSession

_log = logging.getLogger(__name__)


class LiveEngine(EngineLoop):
    """Generates traces on a backend: any number of sessions over one event loop."""

    def open(self, question: Question, model: str, n_traces: int, seed: int) -> LiveSession:
        """Begin a question; each trace is sampled with a seed derived from ``seed``.

        Raises:
            ValueError: If ``model`` is not the one that the backend serves.
        """
        self.start()
        if model != self.model:
            raise ValueError(f"the engine serves {self.model!r}, asked for {model!r}.")
        seats = self.backend.seats
        if self.mode == "stream" and seats is not None and n_traces > seats:
            _log.warning(
                "%d traces share the engine's %d seats: while some wait for one, the others run "
                "past the checkpoint, and pruning saves less; live.mode=resubmit avoids this",
                n_traces,
                seats,
            )
        return LiveSession(self, question, n_traces, seed)

    def generate(self, question: Question, sample_id: int, seed: int) -> Future[Trace]:
        """Generate one whole trace; its answer is extracted, neither classed nor compared.

        Its seed is that of trace ``sample_id`` of ``open(question, ..., seed)``. Cancelling the
        future aborts the request. The future raises RequestError or EngineError.
        """
        self.start()
        assert self._loop is not None
        session = LiveSession(self, question, 1, seed, first_sample=sample_id)
        return asyncio.run_coroutine_threadsafe(session.whole_trace(), self._loop)
