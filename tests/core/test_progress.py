"""Progress without a terminal, and what of the logs reaches one."""

import io
import logging
import sys

import pytest

from deepprune.core import progress


def test_a_bar_without_a_terminal_is_a_line_every_ten_seconds(monkeypatch):
    seconds, shown = [0.0], io.StringIO()
    monkeypatch.setattr(progress, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(sys, "stderr", shown)
    bar = progress.Bar(total=100, desc="sweep: ", delay=0)
    inner = progress.Bar(total=100, desc="pairs: ", delay=0)
    for _ in range(25):
        seconds[0] += 1
        bar.n += 1
        bar.refresh()
    inner.close()
    bar.close()
    lines = shown.getvalue().split("\n")[:-1]
    shares = [line.split(" [")[0] for line in lines]
    assert shares == ["sweep: 0/100", "pairs: 0/100", "sweep: 10/100", "sweep: 20/100"]
    assert "\x1b" not in shown.getvalue()


@pytest.mark.parametrize(
    ("name", "level", "is_shown"),
    [
        ("deepprune.generation", logging.WARNING, True),
        ("deepprune.generation", logging.INFO, False),
        ("transformers", logging.WARNING, False),
        ("py.warnings", logging.WARNING, False),
    ],
)
def test_only_our_warnings_reach_the_terminal(name, level, is_shown, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    console = logging.StreamHandler(sys.stdout)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [console])
    try:
        progress.quieten_libraries()
        logging.getLogger(name).log(level, "said")
    finally:
        logging.captureWarnings(False)
    assert shown.getvalue() == ("said\n" if is_shown else "")
