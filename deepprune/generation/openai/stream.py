"""Reads the stream of an OpenAI-compatible server as chunks of text and tokens."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from deepprune.core.types import FinishReason
from deepprune.generation.backend import (
    Chunk,
    Request,
    RequestError,
    known_logprobs,
    token_confidence,
)
from deepprune.generation.openai.faults import Refused
from deepprune.traces.source import whole

if TYPE_CHECKING:
    from openai import AsyncStream

_log = logging.getLogger(__name__)


class Reader:
    """Converts the events of a request into chunks, over all attempts.

    Attributes:
        text: Text so far.
        n_tokens: Number of its tokens.
        token_ids: Their ids, if the server reports them.
        has_logprobs: Whether the server has reported log-probabilities that are numbers.
    """

    def __init__(self, request: Request) -> None:
        self.text = ""
        self.n_tokens = 0
        self.token_ids: list[int] = []
        self.has_logprobs = False
        self._request = request
        self._end = request.format.think_end or "</think>"

    @property
    def has_ids(self) -> bool:
        """Whether the server has reported the ids of all tokens."""
        return len(self.token_ids) == self.n_tokens > 0

    async def chunks(self, stream: AsyncStream[object]) -> AsyncGenerator[Chunk, None]:
        """Read one attempt to its end; the last chunk waits for the server's count of tokens.

        Raises:
            RequestError: If the stream ends early or has an unexpected shape.
            Refused: If the server's context is full.
        """
        self._before, self._tells_tokens, self._is_thinking = self.n_tokens, False, False
        last: Chunk | None = None
        counted: int | None = None
        is_over = False
        try:
            async for event in stream:
                try:
                    data: Any = event
                    if usage := data.get("usage"):
                        counted = int(usage["completion_tokens"])
                    is_over |= bool(usage) and not data["choices"]
                    if not data["choices"] or last is not None:
                        continue
                    chunk = self._chunk(data["choices"][0])
                except (AttributeError, KeyError, TypeError, ValueError, IndexError):
                    raise RequestError(
                        "the server sent an event of another shape than OpenAI's"
                    ) from None
                self.text += chunk.text
                self.n_tokens += len(chunk.token_end)
                self.token_ids += chunk.token_ids
                if chunk.finish_reason is not None:
                    last = chunk
                elif chunk.text or chunk.token_end:
                    yield chunk
        except Exception:
            if last is None:  # an error after the last chunk does not matter
                raise
        finally:
            await stream.close()
        if last is None and is_over and counted is not None:  # the server never gave a reason
            is_cut = counted >= self._request.max_tokens - self._before
            last = Chunk("", (), finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP)
        if last is None:
            raise RequestError("the stream ended early")
        yield self._corrected(last, counted)

    def _corrected(self, last: Chunk, counted: int | None) -> Chunk:
        """Return the last chunk with as many tokens as the server has ``counted``."""
        n = self.n_tokens - self._before
        limit = self._request.max_tokens - self._before
        is_cut = last.finish_reason is FinishReason.LENGTH
        if not self._tells_tokens:
            if counted is None:
                counted = limit if is_cut else n
            extra = max(0, min(counted, limit) - n)
            last = replace(last, token_end=[*last.token_end, *[len(last.text)] * extra])
            if self._request.sampling.logprobs:
                last = replace(last, confidence=[*last.confidence, *[0.0] * extra])
            self.n_tokens += extra
            n += extra
        if is_cut and n < limit:
            raise Refused(
                f"the server cut the trace {limit - n} tokens before its limit: its context is "
                "full; lower sampling.max_tokens"
            )
        return last

    def _chunk(self, choice: Mapping[str, Any]) -> Chunk:
        lead, text = self._text(choice)
        ids = list(choice.get("token_ids") or ())
        if self._request.sampling.stop:
            text += self._stop_text(choice, text)
        names, tops = _read_logprobs(choice.get("logprobs"))
        self.has_logprobs |= any(tops)
        self._tells_tokens |= bool(ids or names)
        left = self._request.max_tokens - self.n_tokens
        n = len(ids) or len(names) or min(1 if text else 0, left)
        if len(names) == n and n:
            ends = [min(end, len(text)) for end in accumulate(map(len, names))]
            ends[-1] = len(text)
        else:
            ends = [len(text) * (i + 1) // n for i in range(n)]
        k = self._request.sampling.logprobs
        tops += [[]] * (n - len(tops))
        confidence = [token_confidence(top, k) for top in tops[:n]] if k else []
        finish = _finish(choice.get("finish_reason"))
        return Chunk(lead + text, [len(lead) + end for end in ends], ids, confidence, finish)

    def _stop_text(self, choice: Mapping[str, Any], text: str) -> str:
        """Return the stop text that ended the trace, if the server names it and has cut it off."""
        stops = tuple(self._request.sampling.stop)
        stopped_by = choice.get("stop_reason") or choice.get("matched_stop")
        is_cut_off = stopped_by in stops and not (self.text + text).endswith(stops)
        return str(stopped_by) if is_cut_off else ""

    def _text(self, choice: Mapping[str, Any]) -> tuple[str, str]:
        """Return the tag that the server has cut out before its text, and the text.

        Lone surrogates, which JSON can carry and UTF-8 cannot, are replaced.
        """
        if "delta" not in choice:
            return "", whole(choice.get("text") or "")
        delta = choice["delta"] or {}
        thought = whole(delta.get("reasoning_content") or delta.get("reasoning") or "")
        content = whole(delta.get("content") or "")
        lead, said = "", self.text
        if thought and not self._is_thinking:
            self._is_thinking = True
            if not (self._request.text or self._request.suffix or said):
                start = think_start(self._end)
                lead = start if thought.startswith("\n") else f"{start}\n"
        if content and self._is_thinking:
            self._is_thinking = False
            line = "" if (thought or said).endswith("\n") else "\n"
            gap = "\n" * max(0, 2 - len(content) + len(content.lstrip("\n")))
            thought = f"{thought}{line}{self._end}{gap}"
        return lead, thought + content


def _finish(reason: str | None) -> FinishReason | None:
    if not reason:  # also "", which some servers send with every event
        return None
    if reason in ("abort", "error"):
        raise RequestError(f"the server ended the request: {reason}")
    if reason in ("length", "max_tokens"):
        return FinishReason.LENGTH
    if reason != "stop":
        _log.warning("a trace ended for the reason %r; it is kept as it is", reason)
    return FinishReason.STOP


def _read_logprobs(logprobs: Any) -> tuple[list[str], list[list[float]]]:
    """Return the tokens of a piece, and the known log-probabilities of each, highest first."""
    if not logprobs:
        return [], []
    if "content" in logprobs:
        entries = logprobs["content"] or []
        tops = [[top.get("logprob") for top in e.get("top_logprobs") or [e]] for e in entries]
        names = [entry["token"] for entry in entries]
    else:
        names = list(logprobs["tokens"])
        alone = [{"": value} for value in logprobs["token_logprobs"]]
        tops = [list((top or {}).values()) for top in logprobs.get("top_logprobs") or alone]
    return names, [known_logprobs(top) for top in tops]


def think_start(think_end: str) -> str:
    """Return the tag that opens what ``think_end`` closes."""
    return think_end.replace("/", "", 1)
