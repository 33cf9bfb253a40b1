"""Hydra callback: compare the runs of a multirun when it ends."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_started: list[tuple[MultirunTable, DictConfig]] = []


class MultirunTable(Callback):
    """Compares the runs of a multirun from their folders, whichever launcher started them.

    Writes ``comparison.jsonl``, ``comparison.png`` and ``report.html``, prints the table, and ends
    the program with the highest exit code of a run; an error of its own counts as 1.

    Args:
        baseline: Values of options, e.g. ``{loss: bce}``: a row is compared with the one that has
            these and agrees in all others. ``None`` for the first row.
    """

    def __init__(self, baseline: Mapping[str, Any] | None = None) -> None:
        self._baseline = baseline

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the multirun for `show_interrupted`."""
        _started[:] = [(self, config)]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare the runs, and exit with the highest of their exit codes."""
        _started.clear()
        if code := self.compare(config):
            sys.exit(code)

    def compare(self, config: DictConfig) -> int:
        """Write and show the table; return the highest exit code of a run."""
        from deepprune.judge.measure.comparison import read_runs  # imports SciPy
        from deepprune.report.comparing import report_runs

        folder, code = Path(config.hydra.sweep.dir), 0
        try:
            if runs := read_runs(folder, _planned(config)):
                code = max(run.exit_code for run in runs)
                report_runs(runs, folder, self._baseline)
                print(f"run: {folder}")
        except Exception:  # Hydra would turn it into a warning
            traceback.print_exc()
            code = max(code, 1)
        return code


def show_interrupted() -> None:
    """Show the table of a multirun that an interrupt has ended: Hydra then calls no callback."""
    while _started:
        table, config = _started.pop()
        table.compare(config)


def _planned(config: DictConfig) -> list[list[str]]:
    """List the overrides of the runs that Hydra's own sweeper starts; nothing for a search."""
    sweeper = config.hydra.get("sweeper", {})
    if not str(sweeper.get("_target_")).endswith("BasicSweeper"):
        return []
    given = [f"{name}={values}" for name, values in (sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
    return BasicSweeper.split_arguments(parsed, None)[0]
