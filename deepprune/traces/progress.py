"""A progress bar for imports that appears only when the work takes long enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET_S = 2.0

OnProgress = Callable[[str, int, int], None]
"""Called with a stage (``tokens`` or ``answers``), the traces done and the total."""


@contextmanager
def import_progress(title: str) -> Iterator[OnProgress]:
    """Show the progress of an import on stderr, by stages, once it has taken two seconds."""
    began = time.monotonic()
    bars: list[Progress] = []
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if not bars:
            if time.monotonic() - began < _QUIET_S:
                return
            bars.append(_bar(title))
            bars[0].start()
        if stage not in tasks:
            tasks[stage] = bars[0].add_task(stage, total=total)
        bars[0].update(tasks[stage], completed=done)

    try:
        yield report
    finally:
        for bar in bars:
            bar.stop()


def _bar(title: str) -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn(f"{title}: {{task.description}}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
