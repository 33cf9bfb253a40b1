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
from deepprune.evaluation.statistics import Estimate
from deepprune.files import write_atomic
from deepprune.provenance import open_run
from deepprune.report.tracking import start_run

SUMMARY, SCORES = "summary.json", "scores.sqlite"


@dataclass
class Run:
    """A command at work.

    Attributes:
        folder: Where everything goes.
        wandb: The W&B run, or ``None`` with ``logger=none``.
        metrics: The headline, for the comparison of a multirun.
        point: The grid point that the headline is of.
        status: ``ok``, or ``failed``.
        results_path: What ``results:`` prints.
    """

    folder: Path
    wandb: Any
    metrics: dict[str, Estimate] = field(default_factory=dict)
    point: str = ""
    status: str = "ok"
    results_path: Path | None = None

    @property
    def objective(self) -> float | None:
        """What a Hydra sweeper maximises: the within-question AUROC on unfinished pairs."""
        found = self.metrics.get("auroc_within_unfinished")
        return None if found is None else found.value


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
    folder = Path(hydra.runtime.output_dir)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    overrides = list(hydra.overrides.task)
    resolved: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    if not is_rank_zero():  # rank 0 keeps the record
        yield Run(folder, wandb=None)
        return
    logger = resolved.pop("logger")  # where a run is logged does not change what it is,
    resolved.pop("distributed")  # nor does who does it
    open_run(folder, {**resolved, "inputs": dict(inputs)}, overrides)
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
    except BaseException:
        run.status = "failed"
        raise
    finally:
        summary = {
            "status": run.status,
            "overrides": _pairs(overrides),
            "point": run.point,
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


def _pairs(overrides: list[str]) -> Mapping[str, str]:
    return dict(o.lstrip("+~").split("=", 1) for o in overrides if "=" in o)
