"""Session of a `LiveEngine`: the traces of one question, their requests, and checkpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from deepprune.answers import extract_answer
from deepprune.answers.classes import AnswerNumbers
from deepprune.core.flops import attended
from deepprune.core.protocols import (
    ANY_FINISHED,
    FloatArray,
    IntArray,
    Observation,
    TraceState,
    Until,
    Usage,
)
from deepprune.core.seeding import derive
from deepprune.core.types import NO_ANSWER, FinishReason, ForcedAnswer, Prefix, Question, Trace
from deepprune.generation.backend import Chunk, EngineError, Request, RequestError
from deepprune.generation.engine_loop import CLOSE_S, TASK, EngineLoop
from deepprune.generation.live_trace import Forced, LiveTrace, next_end

Answered = TypeVar("Answered", Trace, ForcedAnswer)


class LiveSession:
    """One question of a `LiveEngine`; see `protocols.Session`."""

    def __init__(
        self,
        engine: EngineLoop,
        question: Question,
        n_traces: int,
        seed: int,
        first_sample: int = 0,
    ) -> None:
        self.question = question
        self._engine = engine
        self._n_traces = n_traces
        self._seed = seed
        self._first_sample = first_sample
        self._traces: list[LiveTrace] = []
        self._numbers = AnswerNumbers(engine.checker)
        self._n_seen = 0  # traces that had started at the last checkpoint
        self._until: Until = None
        self._is_waiting = False
        self._changed = asyncio.Event()
        self._lost: EngineError | None = None
        self._is_closed = False
        self._began = self._last_token = time.monotonic()
        self._sequential = self._peak = 0
        self._asked: set[Forced] = set()  # answers that the policy's steps forced
        self._tasks: set[asyncio.Task[None]] = set()  # all requests that have not ended

    # Called from the thread of the policy

    def start(self, n: int) -> None:
        """Start ``n`` more traces; with ``stream`` they generate at once."""
        if len(self._traces) + n > self._n_traces:
            raise ValueError(
                f"the question has {self._n_traces} traces, {len(self._traces)} are started, "
                f"so {n} more cannot be."
            )
        self._engine.call(self._start(n))

    def stop(self, traces: Sequence[int]) -> None:
        """Stop traces by index and abort their requests; what they generated stays."""
        self._engine.call(self._stop(traces))

    def advance(self, until: Until, force: Sequence[int] = ()) -> Observation:
        """Wait until every running trace has come to ``until``, and show the traces there.

        Raises:
            EngineError: If the engine is lost, or no token has come for ``stall_s``.
            RequestError: If all traces failed.
        """
        self._engine.call(self._reach(until, force))
        for trace in self._traces:
            for place, forced in sorted(trace.forced.items()):
                if place <= trace.shown and forced.is_done:
                    forced.answer_class = self._numbers.number(forced.answer)
        n = len(self._traces)
        stopped, finished = np.zeros(n, bool), np.zeros(n, bool)
        answers, forced_class = np.full(n, NO_ANSWER), np.full(n, NO_ANSWER)
        for i, trace in enumerate(self._traces):
            if trace.is_stopped:
                stopped[i] = True
            elif trace.is_seen_finished:
                finished[i] = True
                answers[i] = self._numbers.number(trace.answer)
                forced_class[i] = answers[i]
            elif i in force:
                forced_class[i] = trace.forced[trace.shown].answer_class
        tokens_forced = sum(forced.n_tokens for forced in self._asked)
        return Observation(
            self._n_tokens(), finished, stopped, answers, forced_class, tokens_forced
        )

    @property
    def n_started(self) -> int:
        return len(self._traces)

    def prefix(self, trace: int) -> Prefix:
        """Return the part of a trace that the last checkpoint has shown."""
        live = self._traces[trace]
        if live.snapshot is None:
            live.snapshot = self._record(live, live.shown)
        return Prefix(live.snapshot, live.shown, is_finished=live.is_seen_finished)

    def confidence(self, trace: int) -> FloatArray:
        """Return the token confidences of a trace up to the last checkpoint, ``(n_tokens,)``."""
        live = self._traces[trace]
        n = live.shown
        if len(live.confidence) < n:
            raise ValueError(
                "the traces are generated without token confidences: set sampling.logprobs to "
                "the k of the top-k log-probabilities, e.g. 5 (not every server gives them)."
            )
        return np.array(live.confidence[:n], dtype=np.float64)

    def read_forced_answers(self, traces: Sequence[int]) -> None:
        """Do nothing: ``usage`` counts forced answers as they are generated."""

    @property
    def usage(self) -> Usage:
        """Cost of all tokens of stopped traces and of the shown tokens of the others."""
        forced = [(n, f.n_tokens) for t in self._traces for n, f in list(t.forced.items())]
        return Usage(
            tokens=int(self._n_tokens().sum()),
            tokens_forced=sum(each for _, each in forced),
            forced_context=float(sum(attended(each, n) for n, each in forced)),
            tokens_sequential=self._sequential,
            peak_traces=self._peak,
            seconds=time.monotonic() - self._began,
        )

    def close(self) -> None:
        """Abort all requests of this question and wait until they have ended."""
        if not self._is_closed:
            self._engine.call(self._end_requests())

    def states(self) -> list[TraceState]:
        """Return the states of all started traces; callable from any thread."""
        return [trace.state() for trace in list(self._traces)]

    def answers(self) -> dict[int, str]:
        """Return the first answer of each class so far; callable from any thread."""
        return dict(self._numbers.first)

    def traces(self) -> tuple[Trace, ...]:
        """Return all started traces, whole, with final and forced answers classed and graded.

        Raises:
            WorkerError: If answers cannot be compared.
        """
        gold, is_same = self.question.gold, self._engine.checker.same

        def graded(one: Answered) -> Answered:
            number, is_correct = self._numbers.number(one.answer), None
            if gold is not None:
                is_correct = one.answer is not None and is_same(one.answer, gold)
            return replace(one, answer_class=number, is_correct=is_correct)

        traces = [graded(record) for record in self.records()]
        return tuple(
            replace(t, forced_answers=tuple(map(graded, t.forced_answers))) for t in traces
        )

    # Run in the engine's event loop

    async def _start(self, n: int) -> None:
        first = self._first_sample + len(self._traces)
        names = (*self.question.key, "trace")
        new = [LiveTrace(i, derive(self._seed, *names, i) % 2**31) for i in range(first, first + n)]
        self._traces += new
        if self._engine.mode == "stream":
            for trace in new:
                self._spawn(trace, partial(self._generate, trace, self._engine.sampling.max_tokens))

    async def whole_trace(self) -> Trace:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(TASK)
        try:
            await self._start(1)
            await self._reach(None, force=())
            return self.records()[0]
        finally:
            await self._end_requests()

    async def _reach(self, until: Until, force: Sequence[int]) -> None:
        """Wait until all running traces have come to ``until``, and show them there."""
        if self._lost is not None:
            raise self._lost
        running = [t for t in self._traces if not t.is_stopped and not t.is_seen_finished]
        self._last_token = time.monotonic()  # a paused engine has not stalled
        self._peak = max(self._peak, len(running))
        self._until = until
        for trace in running:
            trace.found, trace.look_at, trace.snapshot = None, 0, None
            if trace.task is None and not trace.has_ended:
                limit, wanted = self._engine.sampling.max_tokens, trace.wanted(until)
                limit = limit if wanted is None else min(limit, wanted)
                n = len(trace.token_end)
                if limit > n and trace.place(until) == n:
                    self._spawn(trace, partial(self._generate, trace, limit))
        failed_at_once = [t for t in self._traces[self._n_seen :] if t.is_seen_finished]
        self._n_seen = len(self._traces)
        self._is_waiting = True
        try:
            if until is ANY_FINISHED:
                until = await self._next_end([*running, *failed_at_once])
            await self._wait(lambda: all(trace.arrives(until) for trace in running))
        finally:
            self._is_waiting = False
        stretch = 0
        for trace in running:
            assert trace.found is not None
            stretch = max(stretch, trace.found - trace.shown)
            trace.shown = trace.found
        self._sequential += stretch
        if self._traces and all(trace.error for trace in self._traces):
            all_of = f"all {len(self._traces)} traces failed: " if len(self._traces) > 1 else ""
            raise RequestError(f"{all_of}{self._traces[0].error}")
        await self._await_forced(running, force)

    async def _next_end(self, running: Sequence[LiveTrace]) -> int:
        """Wait until the next end of a trace is known, see `ANY_FINISHED`; return it in tokens."""
        await self._wait(lambda: next_end(running) is not None)
        for trace in running:
            if self._engine.mode == "resubmit" and trace.task is not None and not trace.has_ended:
                trace.task.cancel()
                trace.task = None
        first = next_end(running)
        assert first is not None
        return first

    async def _await_forced(self, running: Sequence[LiveTrace], force: Sequence[int]) -> None:
        """Wait for the forced answers up to the checkpoint, those of ``force`` there included."""
        for trace in (self._traces[i] for i in force):
            if not (trace.is_stopped or trace.is_seen_finished):
                self._force(trace, trace.shown)
                self._asked.add(trace.forced[trace.shown])
        waited = [
            forced
            for trace in running
            for place, forced in trace.forced.items()
            if place <= trace.shown and forced.task is not None
        ]
        await self._wait(lambda: all(forced.task is None for forced in waited))
        self._sequential += max((forced.n_tokens for forced in waited), default=0)

    async def _end_requests(self) -> None:
        """Cancel all requests and wait until the backend has ended them."""
        self._is_closed = True
        for trace in self._traces:
            trace.task = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)

    async def _stop(self, traces: Sequence[int]) -> None:
        for i in traces:
            trace = self._traces[i]
            if not trace.is_seen_finished and not trace.is_stopped:
                trace.is_stopped = True
                for task in (trace.task, *(forced.task for forced in trace.forced.values())):
                    if task is not None:
                        task.cancel()
                trace.task = None

    def _spawn(self, of: LiveTrace | Forced, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a request of a trace or a forced answer as its task."""

        async def run() -> None:
            try:
                await work()
            except RequestError as error:
                of.fail(str(error))
            except EngineError as error:
                self._lost = error
            except Exception as error:  # a defect of the backend
                self._lost = EngineError(f"{type(error).__name__}: {error}")
                self._lost.__cause__ = error

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if of.task is task:
                of.task = None
            self._changed.set()

        of.task = asyncio.create_task(run(), name=TASK)
        of.task.add_done_callback(end)
        self._tasks.add(of.task)

    async def _generate(self, trace: LiveTrace, limit: int) -> None:
        """Request the rest of a trace, up to a total of ``limit`` tokens, or to where it pauses."""
        engine, n, me = self._engine, len(trace.token_end), trace.task
        request = Request(
            self.question,
            engine.prompt,
            engine.sampling,
            max_tokens=limit - n,
            seed=derive(trace.seed, n) % 2**31 if n else trace.seed,
            text=trace.text,
            token_ids=trace.ids(n),
            sample_id=trace.sample_id,
        )
        async with aclosing(engine.backend.stream(request)) as stream:
            async for chunk in stream:
                if trace.task is not me:  # stopped, or paused
                    return
                self._take(trace, chunk, limit)
                if self._is_waiting and self._until is ANY_FINISHED:
                    self._changed.set()
                elif self._is_waiting and trace.arrives(self._until):
                    if engine.mode == "resubmit" and not trace.has_ended:
                        trace.task = None
                    self._changed.set()
        if not trace.has_ended and len(trace.token_end) < limit:
            trace.fail("the engine ended the request without saying why")

    def _take(self, trace: LiveTrace, chunk: Chunk, limit: int) -> None:
        """Add a chunk to a trace; a request that ends at ``limit`` does not end the trace."""
        before = len(trace.token_end)
        if not chunk.token_end and chunk.finish_reason and 0 < before == trace.shown:
            # The trace was shown as unfinished here, so that its end needs a token, which not every
            # server counts: a recording without it would have ended at the checkpoint already.
            last = tuple(trace.confidence[-1:])
            chunk = replace(chunk, token_end=(len(chunk.text),), confidence=last)
        trace.add(chunk)
        n = len(trace.token_end)
        self._last_token = time.monotonic()
        self._engine.n_tokens += n - before
        reason, most = chunk.finish_reason, self._engine.sampling.max_tokens
        if reason is FinishReason.LENGTH and limit <= n < most:
            reason = None
        elif reason is None and n >= most:
            reason = FinishReason.LENGTH
        if reason is not None:
            trace.answer = extract_answer(trace.text, self._engine.prompt.answer_style)
        trace.finish_reason = reason
        if every := self._engine.force_every:
            end = n - 1 if reason is not None else n  # no answer is forced at a trace's end
            for place in range((before // every + 1) * every, end + 1, every):
                self._force(trace, place)

    def _force(self, trace: LiveTrace, place: int) -> None:
        """Force an answer out after ``place`` tokens, while the trace goes on."""
        if place not in trace.forced:
            forced = trace.forced[place] = Forced()
            self._spawn(forced, partial(self._force_answer, trace, place, forced))

    async def _force_answer(self, trace: LiveTrace, place: int, forced: Forced) -> None:
        engine, format = self._engine, self._engine.prompt
        text = trace.text_at(place)
        request = Request(
            self.question,
            format,
            replace(engine.sampling, temperature=0.0, stop=(), logprobs=0),
            max_tokens=engine.force_tokens,
            seed=0,
            text=text,
            token_ids=trace.ids(place),
            suffix=format.forced(text),
            sample_id=trace.sample_id,
        )
        said = format.force
        async with aclosing(engine.backend.stream(request)) as stream:
            async for chunk in stream:
                said += chunk.text
                forced.n_tokens += len(chunk.token_end)
                self._last_token = time.monotonic()
                forced.answer = extract_answer(said, format.answer_style)
                if forced.answer is not None and "}" in chunk.text:
                    break
        forced.is_done = True

    async def _wait(self, is_done: Callable[[], bool]) -> None:
        """Wait for ``is_done``, which is checked whenever ``_changed`` is set."""
        while True:
            self._changed.clear()
            if self._lost is not None:
                raise self._lost
            if is_done():
                return
            left = self._last_token + self._engine.stall_s - time.monotonic()
            if left <= 0:
                raise EngineError(
                    f"no token has come from the engine for live.stall_s={self._engine.stall_s:g} "
                    "seconds: it hangs, or is slower than that."
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    # Records

    def _n_tokens(self) -> IntArray:
        """Count all tokens of stopped traces and the shown ones of the others, shape ``(N,)``."""
        counts = [len(t.token_end) if t.is_stopped else t.shown for t in self._traces]
        return np.array(counts, dtype=np.int64)

    def records(self) -> list[Trace]:
        """Return all started traces, whole; answers are extracted, not classed."""
        return [self._record(trace) for trace in self._traces]

    def _record(self, live: LiveTrace, shown: int | None = None) -> Trace:
        """Return a trace: whole, or its first ``shown`` tokens."""
        n_tokens = len(live.token_end) if shown is None else shown
        is_whole = shown is None or live.is_seen_finished
        reason = live.finish_reason
        if reason is None:
            reason = FinishReason.PRUNED if live.is_stopped else FinishReason.CUT
        forced_answers = [
            ForcedAnswer(n, f.answer, f.answer_class, tokens=f.n_tokens)
            for n, f in sorted(live.forced.items())
            if n <= n_tokens and f.is_done
        ]
        confidence = live.confidence[:n_tokens] if len(live.confidence) >= n_tokens else None
        return Trace(
            question=self.question,
            model=self._engine.model,
            sample_id=live.sample_id,
            text=live.text if is_whole else live.text_at(n_tokens),
            n_tokens=n_tokens,
            token_end=live.token_end[:n_tokens],
            finish_reason=reason,
            answer=live.answer if shown is None else None,
            seed=None if "seed" in self._engine.backend.omitted else live.seed,
            token_confidence=confidence or None,
            forced_answers=tuple(forced_answers),
        )
