"""Hydra callback: compare the runs of a multirun when it ends."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from deepprune.core.provenance import FAILURE

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
        """Say what will run, and remember the multirun for `show_interrupted`."""
        _started[:] = [(self, config)]
        if planned := _planned(config):
            print(plan_line(planned))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Say how far the multirun is; a launcher calls this where the job ran."""
        if config.hydra.mode == RunMode.MULTIRUN and (line := progress_line(config)) is not None:
            print(line, flush=True)

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


def plan_line(planned: Sequence[Sequence[str]]) -> str:
    """Say how many runs there are, and which options vary.

    >>> plan_line([["seed=0", "loss=bce"], ["seed=0", "loss=focal"]])
    '2 runs: loss=bce,focal'
    """
    from deepprune.judge.measure.comparison import by_option

    values: dict[str, dict[str, None]] = {}
    for overrides in planned:
        for name, value in by_option(overrides).items():
            values.setdefault(name, {})[value] = None
    varied = [f"{name}={','.join(found)}" for name, found in values.items() if len(found) > 1]
    return f"{len(planned)} runs" + (f": {' x '.join(varied)}" if varied else "")


def progress_line(config: DictConfig) -> str | None:
    """Count the runs that are done, and estimate the time of the others at the rate of this start.

    Read from the folder of the multirun, since launchers run jobs in other processes. ``None`` for
    a search, which does not say how many runs it will have.
    """
    from deepprune.judge.measure.comparison import SUMMARY

    folder = Path(config.hydra.sweep.dir)
    plan = folder / "multirun.yaml"  # Hydra writes it when a multirun starts
    planned: Any = OmegaConf.load(plan)
    n_planned, began = len(_planned(planned)), plan.stat().st_mtime
    if not n_planned:
        return None
    ended = [path for name in (SUMMARY, FAILURE) for path in folder.glob(f"*/{name}")]
    now = [path for path in ended if path.stat().st_mtime >= began]
    before = [
        path
        for path in set(ended) - set(now)
        if path.name == SUMMARY and json.loads(path.read_text())["status"] == "ok"
    ]
    n_done = len({path.parent for path in (*now, *before)})
    line = f"{n_done} of {n_planned} runs done"
    if now and n_done < n_planned:
        left = (time.time() - began) / len(now) * (n_planned - n_done)
        line += f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
    return line


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
