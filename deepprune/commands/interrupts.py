"""Ctrl-C and SIGTERM that wait for a clean end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Ctrl-C and SIGTERM as one KeyboardInterrupt, which waits while nothing may be lost.

    Further ones are not heard, so that nothing disturbs the clean end.
    """

    def __init__(self) -> None:
        self._has_come = self._is_held = self._is_due = False

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
        if not self._is_held:
            raise KeyboardInterrupt
        self._is_due = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the interrupt wait until the body is done."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self._raise_due()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within `held`, let it come in the body."""
        self._is_held = False
        try:
            self._raise_due()
            yield
        finally:
            self._is_held = True

    def _raise_due(self) -> None:
        if self._is_due:
            self._is_due = False
            raise KeyboardInterrupt
