"""One question of a `LiveEngine`: its traces, their requests, what a policy is shown of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

import numpy as np

from deepprune.answers import extract_answer
from deepprune.answers.classes import AnswerNumbers
from deepprune.core.protocols import FloatArray, IntArray, Observation, TraceState, Usage
from deepprune.core.seeding import derive
from deepprune.core.types import (
    NO_ANSWER,
    FinishReason,
    ForcedAnswer,
    Prefix,
    PrefixRule,
    Question,
    Trace,
)
from deepprune.generation.backend import Chunk, EngineError, Request, RequestError
from deepprune.generation.engine_loop import CLOSE_S, TASK, EngineLoop
from deepprune.generation.live_trace import Forced, LiveTrace, state_of, wanted_tokens

_log = logging.getLogger(__name__)


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
        self._until: PrefixRule | int | None = None
        self._is_waiting = False
        self._changed = asyncio.Event()
        self._lost: EngineError | None = None
        self._is_closed = False
        self._began = self._last_token = time.monotonic()
        self._sequential = self._peak = 0
        self._ending: set[asyncio.Task[None]] = set()

    # What a policy asks for, from the caller's thread.

    def start(self, n: int) -> None:
        """Start ``n`` more traces; with ``stream`` they generate at once."""
        if len(self._traces) + n > self._n_traces:
            raise ValueError(
                f"the question has {self._n_traces} traces, {len(self._traces)} are started, "
                f"so {n} more cannot be."
            )
        self._engine.call(self.start_requests(n))

    def stop(self, traces: Sequence[int]) -> None:
        """Stop traces by index; their requests are aborted, what they generated stays."""
        self._engine.call(self._stop(traces))

    def advance(self, until: PrefixRule | int | None, force: bool = False) -> Observation:
        """Wait until every running trace has come to ``until``, and show them there.

        Raises:
            EngineError: If the engine is lost, or no token has come for ``stall_s``.
            RequestError: If all traces failed.
        """
        self._engine.call(self.reach(until, force))
        for trace in self._traces:
            for n_tokens, forced in sorted(trace.forced.items()):
                if n_tokens <= trace.shown and forced.is_done and forced.answer_class is None:
                    forced.answer_class = self._numbers.number(forced.answer)
        finished = np.array([t.is_seen_finished and not t.is_stopped for t in self._traces], bool)
        answers = np.array(
            [
                self._numbers.number(self._answer(t)) if is_finished else NO_ANSWER
                for t, is_finished in zip(self._traces, finished, strict=True)
            ],
            dtype=np.int64,
        )
        forced_class = np.full(len(self._traces), NO_ANSWER)
        if force:
            for i, trace in enumerate(self._traces):
                at_place = trace.forced.get(trace.shown)
                forced_class[i] = answers[i]
                if not finished[i] and not trace.is_stopped and at_place is not None:
                    assert at_place.answer_class is not None
                    forced_class[i] = at_place.answer_class
        stopped = np.array([t.is_stopped for t in self._traces], bool)
        return Observation(self._n_tokens(), finished, stopped, answers, forced_class)

    @property
    def n_started(self) -> int:
        """Traces that have been started."""
        return len(self._traces)

    def prefix(self, trace: int) -> Prefix:
        """What trace ``trace`` had generated at the last checkpoint."""
        live = self._traces[trace]
        shown = live.shown
        n_forced = sum(f.answer_class is not None for f in list(live.forced.values()))
        if live.snapshot is None or live.snapshot[:2] != (shown, n_forced):
            live.snapshot = shown, n_forced, self._record(live, shown)
        is_finished = live.has_ended and shown >= len(live.token_end)
        return Prefix(live.snapshot[2], shown, is_finished=is_finished)

    def confidence(self, trace: int) -> FloatArray:
        """Token confidences of trace ``trace`` up to the last checkpoint, shape ``(n_tokens,)``.

        Raises:
            ValueError: If none were asked for.
        """
        live = self._traces[trace]
        n = live.shown
        if len(live.confidence) < n:
            raise ValueError(
                "the traces are generated without token confidences: set sampling.logprobs to "
                "the k of the top-k log-probabilities, e.g. 5 (not every server gives them)."
            )
        return np.array(live.confidence[:n], dtype=np.float64)

    def read_forced_answers(self, traces: Sequence[int]) -> None:
        """Nothing to add: forced answers are in ``usage`` as they are generated."""

    @property
    def usage(self) -> Usage:
        """What has been generated: of stopped traces all, of others up to the last checkpoint."""
        forced = [(n, f.n_tokens) for t in self._traces for n, f in list(t.forced.items())]
        return Usage(
            tokens=int(self._n_tokens().sum()),
            tokens_forced=sum(each for _, each in forced),
            forced_context=float(sum(n * each + each**2 / 2 for n, each in forced)),
            tokens_sequential=self._sequential,
            peak_traces=self._peak,
            seconds=time.monotonic() - self._began,
        )

    def close(self) -> None:
        """Abort what still runs, and wait until it is; no request of this question is left."""
        if not self._is_closed:
            self._engine.call(self.end_requests())

    def states(self) -> list[TraceState]:
        """All started traces at this moment; from any thread."""
        return [state_of(trace) for trace in list(self._traces)]

    def answer(self, trace: int) -> str | None:
        """The answer of a finished trace, even if no checkpoint has counted it yet."""
        return self._answer(self._traces[trace])

    def answers(self) -> dict[int, str]:
        """Of each class of answers so far the one that came first; from any thread."""
        return dict(self._numbers.first)

    def traces(self) -> tuple[Trace, ...]:
        """All started traces for the record, whole, answers classed and compared with the gold.

        Raises:
            WorkerError: If answers cannot be compared.
        """
        records = [
            replace(record, answer_class=self._numbers.number(record.answer))
            for record in self.records()
        ]
        gold = self.question.gold
        if gold is None:
            return tuple(records)
        is_same = self._engine.checker.same
        return tuple(
            replace(r, is_correct=r.answer is not None and is_same(r.answer, gold)) for r in records
        )

    # What goes on in the engine's loop.

    async def start_requests(self, n: int) -> None:
        """Make ``n`` traces; with ``stream``, or where a trace is wanted whole, they begin."""
        first = self._first_sample + len(self._traces)
        names = (*self.question.key, "trace")
        new = [LiveTrace(i, derive(self._seed, *names, i) % 2**31) for i in range(first, first + n)]
        self._traces += new
        if self._engine.mode == "stream":
            for trace in new:
                self._let_go(trace, self._engine.sampling.max_tokens)

    async def reach(self, until: PrefixRule | int | None, force: bool) -> None:
        """Let all running traces come to ``until`` and move what is shown there."""
        if self._lost is not None:
            raise self._lost
        running = [t for t in self._traces if not t.is_stopped and not t.is_seen_finished]
        self._last_token = time.monotonic()  # a paused engine is not a stalled one
        self._peak = max(self._peak, len(running))
        self._until = until
        for trace in running:
            trace.found, trace.looked = None, 0
            if trace.task is None and not trace.has_ended:
                wanted = None if until is None else wanted_tokens(until, trace.shown)
                limit = self._engine.sampling.max_tokens
                limit = limit if wanted is None else min(limit, wanted)
                n = len(trace.token_end)
                if limit > n and trace.place(until) == n:
                    self._let_go(trace, limit)
        self._is_waiting = True
        try:
            await self._wait(lambda: all(trace.arrives(until) for trace in running))
        finally:
            self._is_waiting = False
        before = [trace.shown for trace in running]
        for trace in running:
            assert trace.found is not None
            trace.shown = trace.found
        stretch = [trace.shown - old for trace, old in zip(running, before, strict=True)]
        self._sequential += max(stretch, default=0)
        if self._traces and all(trace.error for trace in self._traces):
            all_of = f"all {len(self._traces)} traces failed: " if len(self._traces) > 1 else ""
            raise RequestError(f"{all_of}{self._traces[0].error}")
        await self._await_forced(running, force)

    async def _await_forced(self, running: Sequence[LiveTrace], force: bool) -> None:
        """Wait for the forced answers up to what is shown; with ``force`` there is one there."""
        if force:
            for trace in running:
                if trace.shown not in trace.forced and not trace.is_seen_finished:
                    self._force(trace, trace.shown)
        waited = [
            forced
            for trace in running
            for place, forced in trace.forced.items()
            if place <= trace.shown and forced.task is not None
        ]
        await self._wait(lambda: all(forced.task is None for forced in waited))
        self._sequential += max((forced.n_tokens for forced in waited), default=0)

    async def end_requests(self) -> None:
        """Cancel all requests and wait until the backend has ended them."""
        self._is_closed = True
        for trace in self._traces:
            self._cancel(trace)
        tasks = set(self._ending)
        tasks |= {f.task for t in self._traces for f in t.forced.values() if f.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)

    async def _stop(self, traces: Sequence[int]) -> None:
        for i in traces:
            trace = self._traces[i]
            if not trace.is_seen_finished and not trace.is_stopped:
                trace.is_stopped = True
                self._cancel(trace)
                for forced in trace.forced.values():
                    if forced.task is not None:
                        forced.task.cancel()

    def _cancel(self, trace: LiveTrace) -> None:
        if (task := self._let_end(trace)) is not None:
            task.cancel()

    def _let_end(self, trace: LiveTrace) -> asyncio.Task[None] | None:
        """Take no more of a trace's request, which ends by itself or by cancelling."""
        task, trace.task = trace.task, None
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        return task

    def _let_go(self, trace: LiveTrace, limit: int) -> None:
        """Let a trace generate up to ``limit`` tokens in all."""
        trace.task = asyncio.create_task(self._generate(trace, limit), name=TASK)

    async def _generate(self, trace: LiveTrace, limit: int) -> None:
        """One request of a trace; ends where the trace does, or where it is to pause."""
        engine, n = self._engine, len(trace.token_end)
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
        pauses = engine.mode == "resubmit"
        me = asyncio.current_task()
        try:
            async with aclosing(engine.backend.stream(request)) as stream:
                async for chunk in stream:
                    if trace.task is not me:  # stopped, or paused
                        return
                    self._take(trace, chunk, limit)
                    if self._is_waiting and trace.arrives(self._until):
                        if pauses and not trace.has_ended:
                            self._let_end(trace)
                        self._changed.set()
            if not trace.has_ended and len(trace.token_end) < limit:
                trace.fail("the engine ended the request without saying why")
        except RequestError as error:
            trace.fail(str(error))
        except Exception as error:
            self._lose(error)
        finally:
            if trace.task is me:
                trace.task = None
            self._changed.set()

    def _take(self, trace: LiveTrace, chunk: Chunk, limit: int) -> None:
        """Add what has come to a trace, and note its end; ``limit`` alone is the request's."""
        before = len(trace.token_end)
        if not chunk.token_end and chunk.finish_reason and 0 < before == trace.shown:
            chunk = _end_token(trace, chunk)
        trace.add(chunk)
        n = len(trace.token_end)
        self._last_token = time.monotonic()
        self._engine.n_tokens += n - before
        reason, most = chunk.finish_reason, self._engine.sampling.max_tokens
        if reason is FinishReason.LENGTH and limit <= n < most:
            reason = None
        elif reason is None and n >= most:
            reason = FinishReason.LENGTH
        trace.finish_reason = reason
        if every := self._engine.force_every:
            end = n - 1 if reason is not None else n  # a trace's end is no place to force an answer
            for place in range((before // every + 1) * every, end + 1, every):
                self._force(trace, place)

    def _force(self, trace: LiveTrace, place: int) -> None:
        """Ask for the answer after ``place`` tokens; the trace goes on meanwhile."""
        if place not in trace.forced:
            forced = trace.forced[place] = Forced()
            forced.task = asyncio.create_task(self._force_answer(trace, place, forced), name=TASK)

    async def _force_answer(self, trace: LiveTrace, place: int, forced: Forced) -> None:
        engine, format = self._engine, self._engine.prompt
        text = trace.text[: trace.token_end[place - 1]] if place else ""
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
        try:
            async with aclosing(engine.backend.stream(request)) as stream:
                async for chunk in stream:
                    said += chunk.text
                    forced.n_tokens += len(chunk.token_end)
                    self._last_token = time.monotonic()
                    forced.answer = extract_answer(said, format.answer_style)
                    if forced.answer is not None and "}" in chunk.text:
                        break
            forced.is_done = True
        except RequestError as error:
            _log.warning("an answer could not be forced out, it counts as none: %s", error)
            forced.is_done = True
            forced.answer = None
        except Exception as error:
            self._lose(error)
        finally:
            forced.task = None
            self._changed.set()

    def _lose(self, error: Exception) -> None:
        """The engine is lost; any error but its own two is a defect of the backend."""
        if isinstance(error, EngineError):
            self._lost = error
        else:
            self._lost = EngineError(f"{type(error).__name__}: {error}")
            self._lost.__cause__ = error

    async def _wait(self, is_done: Callable[[], bool]) -> None:
        """Wait for ``is_done``, which can only change when ``_changed`` is set."""
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

    # What is told of the traces.

    def _n_tokens(self) -> IntArray:
        """Tokens of each trace: of stopped ones all, of others what is shown, shape ``(N,)``."""
        counts = [len(t.token_end) if t.is_stopped else t.shown for t in self._traces]
        return np.array(counts, dtype=np.int64)

    def _answer(self, trace: LiveTrace) -> str | None:
        is_whole = trace.has_ended and trace.error is None
        return extract_answer(trace.text, self._engine.prompt.answer_style) if is_whole else None

    def records(self) -> list[Trace]:
        """All started traces with all that they generated; answers are extracted, not classed."""
        return [self._record(trace, len(trace.token_end), whole=True) for trace in self._traces]

    def _record(self, live: LiveTrace, n_tokens: int, whole: bool = False) -> Trace:
        """A trace, or its first ``n_tokens`` tokens as they were shown."""
        text = live.text
        if not whole:
            text = text[: live.token_end[n_tokens - 1]] if n_tokens else ""
            if live.has_ended and n_tokens >= len(live.token_end):
                text = live.text
        reason = live.finish_reason
        if reason is None:
            reason = FinishReason.PRUNED if live.is_stopped else FinishReason.CUT
        forced_answers = [
            ForcedAnswer(n, f.answer, NO_ANSWER if f.answer_class is None else f.answer_class)
            for n, f in sorted(live.forced.items())
            if n <= n_tokens and f.is_done
        ]
        confidence = live.confidence[:n_tokens] if len(live.confidence) >= n_tokens else None
        return Trace(
            question=self.question,
            model=self._engine.model,
            sample_id=live.sample_id,
            text=text,
            n_tokens=n_tokens,
            token_end=live.token_end[:n_tokens],
            finish_reason=reason,
            answer=self._answer(live) if whole else None,
            seed=live.seed,
            token_confidence=confidence or None,
            forced_answers=tuple(forced_answers),
        )


def _end_token(trace: LiveTrace, chunk: Chunk) -> Chunk:
    """The end of a trace that was shown as unfinished right before: the token that ended it.

    Not every server counts it. Without it a recording would have ended at the checkpoint already.
    """
    return replace(chunk, token_end=(len(chunk.text),), confidence=tuple(trace.confidence[-1:]))
