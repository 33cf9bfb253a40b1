"""Progress bars, and where log records go: standard output has results alone."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, TextIO

from tqdm import tqdm

EVERY_S = 10.0
"""Seconds between two lines of a bar that is not in a terminal."""


class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """Progress bar on stderr, cleared at its end; without a terminal a line now and then.

    A job that ends within ``delay`` seconds, by default 2, shows none.
    """

    def __init__(self, items: Iterable[Any] | None = None, **options: Any) -> None:
        is_terminal = sys.stderr.isatty()
        line = "{desc}{n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
        options = {"delay": 2, **options, "file": sys.stderr, "leave": False}
        options["dynamic_ncols"] = is_terminal
        super().__init__(items, **options, bar_format=None if is_terminal else line)

    def moveto(self, n: int) -> None:
        """Move to the line of a bar within another; in a file there is no such line."""
        if self.fp.isatty():
            super().moveto(n)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Return what shows the bar: it overwrites itself in a terminal, else each is a line."""
        if file.isatty():
            return tqdm.status_printer(file)  # type: ignore[no-any-return]
        next_at = monotonic()

        def show(text: str) -> None:
            nonlocal next_at
            if text.strip() and monotonic() >= next_at:
                next_at = monotonic() + EVERY_S
                print(text.strip(), file=file, flush=True)

        return show


def quieten_libraries() -> None:
    """Leave what libraries log, and Python warnings, to the log file of the run.

    Our own warnings are shown on stderr as well; the bars of libraries are hidden.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
            handler.setStream(sys.stderr)  # type: ignore[attr-defined]
            handler.addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.startswith("deepprune") and record.levelno >= logging.WARNING
