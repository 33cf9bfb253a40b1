"""Progress bar and notes of an import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[str, int, int | None], None]
"""Called with a stage (``traces`` read, ``answers``, ``tokens``), the traces done and the total."""


@contextmanager
def import_progress(title: str) -> Iterator[OnProgress]:
    """Show the progress of an import on stderr, stage by stage, and clear it at the end."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn(f"{title}: {{task.description}}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    tasks: dict[str, progress.TaskID] = {}
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report


def print_note(line: str) -> None:
    """Print a line about what was read or left out on stderr."""
    print(f"note: {line}", file=sys.stderr)
