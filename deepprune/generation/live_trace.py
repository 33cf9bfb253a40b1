"""One trace while it is being generated, and where it pauses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from deepprune.core.protocols import Status, TraceState
from deepprune.core.types import FinishReason, PrefixRule, Trace
from deepprune.generation.backend import Chunk

_LOOK_EVERY = 16  # tokens between two looks at a text for a rule that reads it
_TAIL = 400  # characters


class LiveTrace:
    """One trace at work; only the engine's loop adds to it."""

    def __init__(self, sample_id: int, seed: int) -> None:
        self.sample_id = sample_id
        self.seed = seed
        self.token_end: list[int] = []
        self.token_ids: list[int] = []
        self.confidence: list[float] = []
        self.pieces: list[str] = []
        self.n_chars = 0
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.is_stopped = False
        self.task: asyncio.Task[None] | None = None
        self.shown = 0  # tokens up to the last checkpoint
        self.found: int | None = None  # where it pauses next, once that is known
        self.looked = 0  # tokens when its text was last held against a rule
        self.forced: dict[int, Forced] = {}  # by the tokens before them
        self.snapshot: tuple[int, int, Trace] | None = None

    @property
    def text(self) -> str:
        """All that it has generated."""
        return "".join(self.pieces)

    @property
    def has_ended(self) -> bool:
        """Whether the model, the token limit or a failure has ended it."""
        return self.finish_reason is not None

    @property
    def is_seen_finished(self) -> bool:
        """It ended, and not beyond what has been shown."""
        return self.has_ended and self.shown >= len(self.token_end)

    def ids(self, n: int) -> tuple[int, ...]:
        """The first ``n`` tokens; empty where the backend does not tell them."""
        return tuple(self.token_ids[:n]) if len(self.token_ids) >= n else ()

    def add(self, chunk: Chunk) -> None:
        """Take in what has been generated."""
        before = self.n_chars
        self.pieces.append(chunk.text)
        self.n_chars += len(chunk.text)
        self.token_ids.extend(chunk.token_ids)
        self.confidence.extend(chunk.confidence)
        self.token_end.extend([before + end for end in chunk.token_end])  # last: others count these

    def arrives(self, until: PrefixRule | int | None) -> bool:
        """Whether it has come to ``until``; ``found`` is then where it pauses.

        A rule that reads the text is asked every few tokens.
        """
        n = len(self.token_end)
        if self.found is None and (self.is_settled or n >= self.looked):
            self.found = self.place(until)
            self.looked = n + 1 if is_counted(until) else n + _LOOK_EVERY
        return self.found is not None

    @property
    def is_settled(self) -> bool:
        """Whether nothing more comes of it as things are."""
        return self.task is None or self.has_ended

    def place(self, until: PrefixRule | int | None) -> int | None:
        """Tokens at which it pauses for ``until``; ``None`` while it is not there.

        While it runs, a token beyond the place must have come: it could be that the trace ends
        right there, or that its last word goes on.
        """
        n, is_settled = len(self.token_end), self.is_settled
        if until is None:
            return n if is_settled else None
        wanted = wanted_tokens(until, self.shown)
        if wanted is not None:
            return max(min(wanted, n), self.shown) if is_settled or n > wanted else None
        assert not isinstance(until, int)
        cut = min(until.cut(self.text, self.token_end[:n]), n)
        is_known = cut < n and self.n_chars > self.token_end[cut - 1]
        return max(cut, self.shown) if is_settled or is_known else None

    def fail(self, reason: str) -> None:
        """End it here: its request failed for good."""
        self.error = reason
        self.finish_reason = FinishReason.FAILED


@dataclass
class Forced:
    """An answer that was forced out of a trace: its request, and what came of it."""

    task: asyncio.Task[None] | None = None
    is_done: bool = False
    answer: str | None = None
    n_tokens: int = 0
    answer_class: int | None = None  # not numbered yet


def wanted_tokens(until: PrefixRule | int, shown: int) -> int | None:
    """The tokens at which ``until`` pauses any trace; ``None`` where its text decides."""
    if isinstance(until, int):
        return shown + until
    return int(until.k) if until.kind == "first_tokens" else None


def is_counted(until: PrefixRule | int | None) -> bool:
    """Whether ``until`` asks for tokens alone, not for what they say."""
    return until is None or wanted_tokens(until, 0) is not None


def state_of(trace: LiveTrace) -> TraceState:
    """The trace at this moment."""
    if trace.error is not None:
        status = Status.FAILED
    elif trace.is_stopped:
        status = Status.STOPPED
    else:
        status = Status.FINISHED if trace.has_ended else Status.RUNNING
    tail = "".join(trace.pieces[-_TAIL:])[-_TAIL:]
    return TraceState(len(trace.token_end), status, tail)
