"""Ctrl-C and SIGTERM that wait for a clean end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM; a KeyboardInterrupt, so that both are handled alike."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return 143 for SIGTERM, 130 for Ctrl-C, as a shell does."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


class Interrupts:
    """Raise Ctrl-C and SIGTERM once, as `KeyboardInterrupt` or `Terminated`; delay it in `held`.

    Further signals are ignored, so that nothing disturbs the clean end.
    """

    def __init__(self) -> None:
        self._has_come = self._is_held = False
        self._due: KeyboardInterrupt | None = None

    def __enter__(self) -> Interrupts:
        self._before = {each: signal.signal(each, self._come) for each in _STOPS}
        return self

    def __exit__(self, *error: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._has_come:
            return
        self._has_come = True
        interrupt = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if not self._is_held:
            raise interrupt
        self._due = interrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay the interrupt until the end of the body."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self._raise_due()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within `held`, raise the interrupt in the body."""
        self._is_held = False
        try:
            self._raise_due()
            yield
        finally:
            self._is_held = True

    def _raise_due(self) -> None:
        if self._due is not None:
            due, self._due = self._due, None
            raise due
