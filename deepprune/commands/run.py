"""Run folder, W&B run, summary and last lines of every command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepprune.commands.interrupts import exit_code
from deepprune.config.judges import export_hash
from deepprune.config.plans import RunPlan
from deepprune.core.files import write_atomic
from deepprune.core.provenance import open_run
from deepprune.core.statistics import Estimate
from deepprune.judge.base import Judge
from deepprune.judge.measure.comparison import SUMMARY, by_option, read_run
from deepprune.report.figures import REPORT, drawn, report_page
from deepprune.report.loggers import Tracker, start_logger
from deepprune.report.tracking import run_config, start_run
from deepprune.traces import TraceStore

SCORES = "scores.sqlite"
REPORTED = ("train", "evaluate", "judge-report")
"""Commands whose run folder gets a page."""


@dataclass
class Run:
    """State of a running command.

    Attributes:
        folder: Where everything goes.
        tracker: Receives what W&B shows.
        metrics: The headline, for the comparison of a multirun.
        point: The grid point that the headline is of.
        objective: What a Hydra sweeper maximises: the trained judge's within-question AUROC on
            unfinished *validation* pairs. Never a figure of the test part, which is reported.
        status: ``ok``, ``failed`` or ``interrupted``.
        results_path: What ``results:`` prints.
    """

    folder: Path
    tracker: Tracker = field(default_factory=Tracker)
    metrics: dict[str, Estimate] = field(default_factory=dict)
    point: str = ""
    objective: float | None = None
    status: str = "ok"
    results_path: Path | None = None


def finished_run(plan: RunPlan, inputs: Mapping[str, str | None]) -> Run | None:
    """Return what an earlier start of this job of a multirun recorded, if it finished.

    Args:
        plan: Where the run goes.
        inputs: See ``command_run``.

    Raises:
        InputError: If the folder holds a run of another configuration.
    """
    if plan.multirun is None or not (plan.folder / SUMMARY).exists():
        return None
    summary = json.loads((plan.folder / SUMMARY).read_text())
    if summary["status"] != "ok":
        return None
    if is_rank_zero():
        open_run(plan.folder, {**plan.identity, "inputs": dict(inputs)}, ())
        print(f"finished before: {plan.folder}")
    metrics = {name: Estimate(*estimate) for name, estimate in summary["metrics"].items()}
    return Run(plan.folder, Tracker(), metrics, summary["point"], summary["objective"])


@contextmanager
def command_run(plan: RunPlan, inputs: Mapping[str, str | None]) -> Iterator[Run]:
    """Claim the run folder, start W&B; at the end write ``summary.json`` and say where things are.

    Args:
        plan: Where the run goes, and what identifies it.
        inputs: Hashes of what the configuration names: a run goes on only with the same.

    Raises:
        InputError: If the folder holds a run of another configuration.
    """
    folder = plan.folder
    if not is_rank_zero():  # rank 0 keeps the record
        yield Run(folder)
        return
    facts = {"choices": dict(plan.choices), "changed": dict(plan.changed)}
    open_run(folder, {**plan.identity, "inputs": dict(inputs)}, plan.overrides, facts)
    _link_latest(plan.multirun or folder)
    run = Run(folder)
    run.tracker = _tracker(plan, {**plan.identity, "inputs": dict(inputs)})
    code = 0
    try:
        yield run
    except KeyboardInterrupt as interrupt:
        run.status, code = "interrupted", exit_code(interrupt)
        option = f"sweep.dir={plan.multirun}" if plan.multirun else f"run.dir={folder}"
        said = f"interrupted; the same command with hydra.{option} resumes"
        raise type(interrupt)(str(interrupt) or said) from interrupt
    except BaseException:
        run.status = "failed"
        raise
    finally:
        summary = {
            "status": run.status,
            "overrides": by_option(plan.overrides),
            "point": run.point,
            "objective": run.objective,
            "metrics": run.metrics,
        }
        write_atomic(folder / SUMMARY, json.dumps(summary, indent=2))
        run.tracker.finish(code or int(run.status != "ok"))
    if plan.command in REPORTED and (
        page := drawn(report_page, folder / REPORT, [read_run(folder)])
    ):
        print(f"report: {page}")
    if run.results_path is not None:
        print(f"results: {run.results_path}")
    print(f"run: {folder}")


def _tracker(plan: RunPlan, options: Mapping[str, Any]) -> Tracker:
    """Start the logger of ``logger=``."""
    config = run_config(plan.choices, options)
    if plan.logger == "wandb":
        return start_run(
            plan.folder,
            config,
            **plan.logger_options,
            group=plan.multirun.name if plan.multirun else None,
            overrides=plan.overrides,
            command=plan.command,
        )
    return start_logger(plan.logger, plan.folder, config, ",".join([plan.command, *plan.overrides]))


def log_inputs(run: Run, store: TraceStore, judges: Iterable[Judge] = ()) -> None:
    """Note the traces and the trained judges that a run reads."""
    run.tracker.artifact("dataset", [store.path], store.content_hash, is_input=True)
    for judge in judges:
        if (path := judge.provenance.path) is not None:
            run.tracker.artifact("model", [path], export_hash(path), is_input=True)


def _link_latest(folder: Path) -> None:
    """Make ``runs/latest`` point to a folder of ``runs/``."""
    if folder.parent.name == "runs":
        link = folder.with_name("latest")
        temporary = folder.with_name(f".latest.{os.getpid()}")
        with suppress(OSError):  # a file system without links
            temporary.symlink_to(folder.name)
            os.replace(temporary, link)


def is_rank_zero() -> bool:
    """Return whether this process keeps the record, among those that a launcher has started."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank), "0")) == 0
