"""A progress bar with an estimate that appears only when the work takes long enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET_S = 2.0

OnProgress = Callable[[str, int, int], None]
"""Called with a stage (``tokens`` or ``answers``), the traces done and the traces in all."""


class SlowProgress:
    """Progress by stages on stderr; silent for the first two seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report ``done`` of ``total`` traces of a stage."""
        if self._bar is None:
            if time.monotonic() - self._began < _QUIET_S:
                return
            self._bar = _bar(self._title)
            self._bar.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[stage], completed=done)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _bar(title: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn(f"{title}: {{task.description}}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def import_progress(title: str) -> Iterator[SlowProgress]:
    """Show the progress of an import once it has taken two seconds."""
    progress = SlowProgress(title)
    try:
        yield progress
    finally:
        progress.stop()
