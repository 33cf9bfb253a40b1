"""Answer equivalence, with the algebra in a worker process that can be killed.

Equal strings, plain numbers and words are compared in this process. Everything else goes to one
worker, started on first use. A comparison that exceeds the time limit counts as "not the same"; its
worker is killed, and the next comparison starts a new one. Then each of the two answers is
evaluated alone: one that fails costs no further comparison.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from deepprune.answers.compare import same_answer
from deepprune.answers.normalise import MAX_LENGTH, Answer, parse_answer

_START_S = 120.0  # importing sympy takes one second, far longer on a busy machine
_BATCH = 64  # pairs sent at a time
_ROOT = Path(__file__).resolve().parents[2]

Pair = tuple[str, str]


class WorkerError(RuntimeError):
    """The worker did not start, so that answers cannot be compared."""


class _NeedsAlgebraError(Exception):
    """This process cannot decide the comparison."""


class EquivalenceChecker:
    r"""Decides whether two final answers are the same, by the rules in ``normalise``.

    Symmetric, thread-safe, and caches its verdicts.

    >>> with EquivalenceChecker() as checker:
    ...     checker.same(r"\frac{1}{2}", "0.5")
    True

    Args:
        timeout_s: Seconds for one comparison, > 0.

    Attributes:
        timeouts: Comparisons that exceeded the time limit, or would, since one of the answers does
            alone; they count as "not the same".
        crashes: Likewise where the worker died (out of memory, stack overflow).
    """

    def __init__(self, timeout_s: float = 5.0) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s}")
        self.timeout_s = timeout_s
        self.timeouts = 0
        self.crashes = 0
        self._known: dict[Pair, bool] = {}
        self._failing: dict[str, bool] = {}  # alone; whether by a timeout
        self._lock = threading.RLock()
        self._worker: _Worker | None = None

    def same(self, a: str, b: str) -> bool:
        return self.same_many([(a, b)])[0]

    def same_many(self, pairs: Iterable[Pair]) -> list[bool]:
        """Return for each pair whether its two answers are the same.

        Raises:
            WorkerError: If the worker is needed and does not start.
        """
        decided: list[bool | Pair] = [_decide(a, b) for a, b in pairs]
        open_pairs = list(dict.fromkeys(d for d in decided if not isinstance(d, bool)))
        if open_pairs:
            with self._lock:
                todo = [pair for pair in open_pairs if pair not in self._known]
                for start in range(0, len(todo), _BATCH):
                    self._ask(todo[start : start + _BATCH])
        return [d if isinstance(d, bool) else self._known[d] for d in decided]

    def close(self) -> None:
        """Stop the worker; a later comparison that needs one starts it again."""
        with self._lock:
            if self._worker is not None:
                self._worker.stop()
                self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, pairs: Sequence[Pair]) -> None:
        """Cache the worker's verdicts on ``pairs``."""
        rest = list(pairs)
        while rest:
            rest = [pair for pair in rest if not self._fails(pair)]
            verdicts, timed_out = self._replies(rest)
            self._known.update(zip(rest, verdicts, strict=False))
            rest = rest[len(verdicts) :]
            if rest:
                pair = rest.pop(0)
                for answer in pair:
                    replies, by_timeout = self._replies([(answer, None)])
                    if not replies:
                        self._failing[answer] = by_timeout
                self._count(pair, timed_out)

    def _fails(self, pair: Pair) -> bool:
        """Return whether an answer of the pair fails alone, and count the pair if so."""
        failing = [self._failing[answer] for answer in pair if answer in self._failing]
        if failing:
            self._count(pair, failing[0])
        return bool(failing)

    def _count(self, pair: Pair, timed_out: bool) -> None:
        self._known[pair] = False
        self.timeouts += timed_out
        self.crashes += not timed_out

    def _replies(self, pairs: Sequence[tuple[str, str | None]]) -> tuple[list[bool], bool]:
        """Ask the worker, see `_Worker.ask`; stop it if a pair fails."""
        if self._worker is None:
            self._worker = _Worker()
        verdicts: list[bool] = []
        try:
            verdicts, timed_out = self._worker.ask(pairs, self.timeout_s)
        finally:
            if len(verdicts) < len(pairs):  # also an interrupt leaves replies in the pipe
                self.close()
        return verdicts, timed_out


def _decide(a: str, b: str) -> bool | Pair:
    """Return the verdict, or the pair in canonical order if only the worker can decide."""
    if a == b:
        return True
    try:
        return same_answer(parse_answer(a), parse_answer(b), _needs_algebra)
    except _NeedsAlgebraError:
        if max(len(a), len(b)) > MAX_LENGTH:
            return False
        return (a, b) if a < b else (b, a)


def _needs_algebra(a: Answer, b: Answer) -> bool:
    raise _NeedsAlgebraError


class _Worker:
    """One worker process and the pipes to it."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deepprune.answers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._unread = b""
        # Runs at exit and when the checker is garbage-collected, too: no process is left behind.
        self._finalizer = weakref.finalize(self, _end, self.process)
        try:
            ready = self._line(time.monotonic() + _START_S)
        except BaseException:
            self.stop()
            raise
        if ready != b"ready":
            self.stop()
            raise WorkerError(
                f"the answer worker did not start within {_START_S:.0f} s or ended at once; "
                "`python -m deepprune.answers.worker` shows why (is math-verify installed?)"
            )

    def ask(
        self, pairs: Sequence[tuple[str, str | None]], limit_s: float
    ) -> tuple[list[bool], bool]:
        """Compare pairs until one fails; return the verdicts and whether the last timed out.

        A pair without a second answer evaluates the first alone; its verdict has no meaning.
        """
        request = json.dumps({"limit_s": limit_s, "pairs": pairs}) + "\n"
        verdicts: list[bool] = []
        try:
            self._stdin.write(request.encode())
            self._stdin.flush()
        except OSError:
            return verdicts, False
        for _ in pairs:
            line = self._line(time.monotonic() + limit_s)
            if not line:
                return verdicts, line is None
            verdicts.append(line == b"1")
        return verdicts, False

    def stop(self) -> None:
        """Kill the process and reap it."""
        self._finalizer()

    def _line(self, deadline: float) -> bytes | None:
        """Return the next line; empty at the end of the stream, ``None`` after the deadline."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(self._stdout.fileno(), 65536)
                if not chunk:
                    return b""
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):  # unsent bytes for a process that has ended
            pipe.close()
