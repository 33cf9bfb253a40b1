"""A trace during generation, and where it pauses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from deepprune.core.protocols import AnyFinished, Status, TraceState, Until
from deepprune.core.types import NO_ANSWER, FinishReason, Trace
from deepprune.generation.backend import Chunk

_log = logging.getLogger(__name__)

_LOOK_EVERY = 16  # tokens between two checks of a rule that reads the text
_TAIL = 400  # characters


class LiveTrace:
    """A trace during generation; only the engine's loop adds to it."""

    def __init__(self, sample_id: int, seed: int) -> None:
        self.sample_id = sample_id
        self.seed = seed
        self.token_end: list[int] = []
        self.token_ids: list[int] = []
        self.confidence: list[float] = []
        self.pieces: list[str] = []
        self.n_chars = 0
        self.finish_reason: FinishReason | None = None
        self.answer: str | None = None  # known once the model or the token limit has ended it
        self.error: str | None = None
        self.is_stopped = False
        self.task: asyncio.Task[None] | None = None
        self.shown = 0  # tokens up to the last checkpoint
        self.found: int | None = None  # where it pauses next, once that is known
        self.look_at = 0  # number of tokens at which the rule is checked next
        self.forced: dict[int, Forced] = {}  # by the number of tokens before them
        self.snapshot: Trace | None = None  # the shown part, built when it is read

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def text_at(self, n: int) -> str:
        return self.text[: self.token_end[n - 1]] if n else ""

    @property
    def has_ended(self) -> bool:
        """Whether the model, the token limit or a failure has ended it."""
        return self.finish_reason is not None

    @property
    def is_seen_finished(self) -> bool:
        """Whether it has ended and all of it has been shown."""
        return self.has_ended and self.shown >= len(self.token_end)

    def ids(self, n: int) -> tuple[int, ...]:
        """Return the ids of the first ``n`` tokens, none where the backend does not report them."""
        return tuple(self.token_ids[:n]) if len(self.token_ids) >= n else ()

    def add(self, chunk: Chunk) -> None:
        before = self.n_chars
        self.pieces.append(chunk.text)
        self.n_chars += len(chunk.text)
        self.token_ids.extend(chunk.token_ids)
        self.confidence.extend(chunk.confidence)
        # last, since other threads count these
        self.token_end.extend([before + end for end in chunk.token_end])

    def arrives(self, until: Until) -> bool:
        """Return whether it has come to ``until``; ``found`` is then where it pauses."""
        n = len(self.token_end)
        if self.found is None and (self.is_settled or n >= self.look_at):
            self.found = self.place(until)
            reads_text = until is not None and self.wanted(until) is None
            self.look_at = n + (_LOOK_EVERY if reads_text else 1)
        return self.found is not None

    @property
    def is_settled(self) -> bool:
        """Whether no request generates it."""
        return self.task is None or self.has_ended

    def wanted(self, until: Until) -> int | None:
        """Return the number of tokens at which it pauses; ``None`` if text or end decide."""
        if isinstance(until, int):
            return self.shown + until
        if until is None or isinstance(until, AnyFinished) or until.kind != "first_tokens":
            return None
        return int(until.k)

    def place(self, until: Until) -> int | None:
        """Return the number of tokens at which it pauses for ``until``; ``None`` before that.

        While it runs, a token beyond the place must have come: the trace could end right there, or
        its last word could continue.
        """
        n, is_settled = len(self.token_end), self.is_settled
        if until is None or isinstance(until, AnyFinished):
            return n if is_settled else None
        if (wanted := self.wanted(until)) is not None:
            return max(min(wanted, n), self.shown) if is_settled or n > wanted else None
        assert not isinstance(until, int)
        cut = min(until.cut(self.text, self.token_end[:n]), n)
        is_known = cut < n and self.n_chars > self.token_end[cut - 1]
        return max(cut, self.shown) if is_settled or is_known else None

    def fail(self, reason: str) -> None:
        self.error = reason
        self.finish_reason = FinishReason.FAILED

    def state(self) -> TraceState:
        if self.error is not None:
            status = Status.FAILED
        elif self.is_stopped:
            status = Status.STOPPED
        else:
            status = Status.FINISHED if self.has_ended else Status.RUNNING
        tail = "".join(self.pieces[-_TAIL:])[-_TAIL:]
        return TraceState(len(self.token_end), status, tail, self.answer)


def next_end(running: Sequence[LiveTrace]) -> int | None:
    """Return after how many more tokens the first of ``running`` ends; ``None`` until it is known.

    It is known once every trace has ended or has a token beyond.
    """
    ended = [t for t in running if t.has_ended]
    first = min((len(t.token_end) - t.shown for t in ended), default=0)
    others = [t for t in running if not t.has_ended]
    is_known = all(ended and len(t.token_end) - t.shown > first for t in others)
    return first if is_known else None


@dataclass(eq=False)
class Forced:
    """Request and result of an answer forced out of a trace."""

    task: asyncio.Task[None] | None = None
    is_done: bool = False
    answer: str | None = None
    n_tokens: int = 0
    answer_class: int = NO_ANSWER  # until a checkpoint shows it

    def fail(self, reason: str) -> None:
        _log.warning("an answer could not be forced out, it counts as none: %s", reason)
        self.is_done, self.answer = True, None
