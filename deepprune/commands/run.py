"""The frame of a command: its folder, its W&B run, its summary, its last lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from deepprune.callbacks.sweep_figure import FIGURE
from deepprune.core.files import write_atomic
from deepprune.core.provenance import open_run
from deepprune.core.statistics import Estimate
from deepprune.judge.measure.comparison import SUMMARY, by_option
from deepprune.report.tracking import start_run

SCORES = "scores.sqlite"

OPERATIONAL = {
    "collect": ("concurrency", "replicas"),
    "prune": ("judge_timeout_s",),
    "live": ("stall_s",),
    "engine": (
        "base_url",
        "timeout_s",
        "max_retries",
        "max_concurrent",
        "gpu_memory_utilization",
        "max_num_seqs",
    ),
}
"""Options by section that change how a run is carried out, not what it is: it resumes with any."""


@dataclass
class Run:
    """A command at work.

    Attributes:
        folder: Where everything goes.
        wandb: The W&B run, or ``None`` with ``logger=none``.
        metrics: The headline, for the comparison of a multirun.
        point: The grid point that the headline is of.
        objective: What a Hydra sweeper maximises: the trained judge's within-question AUROC on
            unfinished *validation* pairs. Never a figure of the test part, which is reported.
        status: ``ok``, ``failed`` or ``interrupted``.
        results_path: What ``results:`` prints.
    """

    folder: Path
    wandb: Any
    metrics: dict[str, Estimate] = field(default_factory=dict)
    point: str = ""
    objective: float | None = None
    status: str = "ok"
    results_path: Path | None = None


def finished_run(config: DictConfig, inputs: Mapping[str, str | None]) -> Run | None:
    """Return what an earlier start of this job of a multirun recorded, if it finished.

    Args:
        config: See ``command_run``.
        inputs: See ``command_run``.

    Raises:
        InputError: If the folder holds a run of another configuration.
    """
    hydra = HydraConfig.get()
    folder = _folder(hydra)
    if hydra.mode != RunMode.MULTIRUN or not (folder / SUMMARY).exists():
        return None
    summary = json.loads((folder / SUMMARY).read_text())
    if summary["status"] != "ok":
        return None
    if is_rank_zero():
        open_run(folder, {**_identity(config), "inputs": dict(inputs)}, ())
        print(f"finished before: {folder}")
    metrics = {name: Estimate(*estimate) for name, estimate in summary["metrics"].items()}
    return Run(folder, None, metrics, summary["point"], summary["objective"])


@contextmanager
def command_run(
    config: DictConfig, job_type: str, inputs: Mapping[str, str | None]
) -> Iterator[Run]:
    """Claim the run folder, start W&B; at the end write ``summary.json`` and say where things are.

    Args:
        config: The composed configuration.
        job_type: The command.
        inputs: Hashes of what the configuration names: a run goes on only with the same.

    Raises:
        InputError: If the folder holds a run of another configuration.
    """
    hydra = HydraConfig.get()
    folder = _folder(hydra)
    overrides = list(hydra.overrides.task)
    if not is_rank_zero():  # rank 0 keeps the record
        yield Run(folder, wandb=None)
        return
    resolved = _identity(config)
    open_run(folder, {**resolved, "inputs": dict(inputs)}, overrides)
    logger: Any = config.logger and OmegaConf.to_container(config.logger, resolve=True)
    is_multirun = hydra.mode == RunMode.MULTIRUN
    wandb_run = None
    if logger:
        wandb_run = start_run(
            folder,
            resolved,
            **logger,
            group=Path(hydra.sweep.dir).name if is_multirun else None,
            tags=overrides,
            job_type=job_type,
        )
    run = Run(folder, wandb_run)
    try:
        yield run
    except KeyboardInterrupt as interrupt:
        run.status = "interrupted"
        option = f"sweep.dir={hydra.sweep.dir}" if is_multirun else f"run.dir={folder}"
        said = f"interrupted; the same command with hydra.{option} resumes"
        raise type(interrupt)(str(interrupt) or said) from interrupt
    except BaseException:
        run.status = "failed"
        raise
    finally:
        summary = {
            "status": run.status,
            "overrides": by_option(overrides),
            "point": run.point,
            "objective": run.objective,
            "metrics": run.metrics,
        }
        write_atomic(folder / SUMMARY, json.dumps(summary, indent=2))
        if wandb_run is not None:
            wandb_run.finish(exit_code=int(run.status != "ok"))  # or the next job logs into it
    if (figure := folder / FIGURE).exists():
        print(f"figure: {figure}")
    if run.results_path is not None:
        print(f"results: {run.results_path}")
    print(f"run: {folder}")


def is_rank_zero() -> bool:
    """Whether this process keeps the record, of those that a launcher or Lightning started."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank), "0")) == 0


def _folder(hydra: Any) -> Path:
    """The run folder, relative where it lies below the working directory."""
    folder = Path(hydra.runtime.output_dir)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _identity(config: DictConfig) -> dict[str, Any]:
    """Return the configuration that identifies a run, without how it is logged or carried out."""
    resolved: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    for section, names in OPERATIONAL.items():
        if isinstance(options := resolved.get(section), dict):
            for name in names:
                options.pop(name, None)
    return {k: v for k, v in resolved.items() if k not in ("logger", "distributed", "view")}
