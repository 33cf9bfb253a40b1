"""Plays recorded traces as if a model generated them: for trying things out, and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Annotated

from deepprune.core.options import Ge, checked
from deepprune.core.types import FinishReason, QuestionTraces, Trace
from deepprune.generation.backend import Chunk, PromptFormat, Request, RequestError, Sampling
from deepprune.traces import open_traces


class ScriptedBackend:
    """Plays the traces of ``groups``, one token at a time; trace i of a question is its i-th.

    A forced answer is the last one recorded up to its position, or empty.

    Args:
        groups: The traces, of one model.
        seconds_per_token: Real time between two tokens of a trace, >= 0.

    Raises:
        ValueError: If the traces are of several models.
    """

    token_counter = "generator"
    can_continue = True
    omitted = ()
    seats = None

    def __init__(self, groups: Iterable[QuestionTraces], seconds_per_token: float = 0.0) -> None:
        self.seconds_per_token = seconds_per_token
        groups = list(groups)
        models = sorted({g.model for g in groups})
        if len(models) != 1:
            raise ValueError(
                f"engine=scripted plays the traces of one model, got {', '.join(models) or 'none'}:"
                " choose it with engine.model=NAME."
            )
        self._traces = {g.question.key: g.traces for g in groups}
        self.model = models[0]
        self.n_running = 0

    async def open(self, format: PromptFormat, sampling: Sampling) -> None:
        pass

    async def stream(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Play the tokens after ``request.text``, or a forced answer."""
        trace = self._recorded(request)
        self.n_running += 1
        try:
            if request.suffix:
                await asyncio.sleep(self.seconds_per_token)
                yield _forced(trace, len(request.token_ids))
                return
            start = len(request.token_ids)
            last = min(start + request.max_tokens, trace.n_tokens)
            for i in range(start, last):
                await asyncio.sleep(self.seconds_per_token)
                yield self._token(trace, i, last)
            if start + request.max_tokens > last and not trace.finish_reason.is_whole:
                raise RequestError(
                    f"the recorded trace {request.sample_id} of {'/'.join(request.question.key)} "
                    f"ends after {last} tokens: {trace.finish_reason}."
                )
            if start >= last:
                yield Chunk("", (), finish_reason=FinishReason.STOP)
        finally:
            self.n_running -= 1

    def _recorded(self, request: Request) -> Trace:
        name = request.question.key
        traces = self._traces.get(name, ())
        if request.sample_id >= len(traces):
            raise RequestError(
                f"the script has {len(traces)} traces of {'/'.join(name)}, asked for trace "
                f"{request.sample_id}."
            )
        return traces[request.sample_id]

    def _token(self, trace: Trace, i: int, last: int) -> Chunk:
        begin = trace.token_end[i - 1] if i else 0
        is_end = i + 1 == trace.n_tokens and trace.finish_reason.is_whole
        reason = FinishReason.LENGTH if i + 1 == last else None
        if is_end:
            is_cut = trace.finish_reason is FinishReason.LENGTH
            reason = FinishReason.LENGTH if is_cut else FinishReason.STOP
        end = len(trace.text) if is_end else trace.token_end[i]
        confidence = trace.token_confidence
        return Chunk(
            trace.text[begin:end],
            (int(trace.token_end[i] - begin),),
            token_ids=(i,),
            confidence=() if confidence is None else (float(confidence[i]),),
            finish_reason=reason,
        )

    async def close(self) -> None:
        pass


def _forced(trace: Trace, n_tokens: int) -> Chunk:
    """Return the last answer that was recorded up to ``n_tokens`` tokens, and its bracket."""
    said = [forced.answer for forced in trace.forced_answers if forced.n_tokens <= n_tokens]
    text = f"{(said and said[-1]) or ''}}}"
    return Chunk(text, (len(text),), finish_reason=FinishReason.STOP)


@checked
def scripted(
    traces: str = "pool",
    model: str | None = None,
    seconds_per_token: Annotated[float, Ge(0)] = 0.02,
) -> ScriptedBackend:
    """Play recorded traces of one model as if they were generated.

    Args:
        traces: Traces that are played: ``pool``, a store, or a file.
        model: Model whose traces are played, if they are of several.
        seconds_per_token: Real time between two tokens of a trace, in seconds.
    """
    groups = open_traces(traces).load(models=None if model is None else [model])
    return ScriptedBackend(groups, seconds_per_token)
