"""Hydra launcher: the runs of a multirun on a Ray cluster.

Hydra's own plugin requires cloudpickle < 3, which conflicts with joblib.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from deepprune.core.errors import InputError
from deepprune.core.files import write_atomic
from deepprune.core.provenance import FAILURE


class RayLauncher(Launcher):
    """Runs each job in its own Ray process, which frees its GPU memory at the end.

    The machines must have the working directory and the traces under the same paths.

    Args:
        n_jobs: Number of concurrent runs on a local cluster; a cluster given by ``address`` runs as
            many as its cores and GPUs allow.
        address: Address of a cluster, e.g. ``auto``; ``None`` starts a local one.
        cpus: Cores per run.
        gpus: GPUs per run, may be a fraction.
    """

    def __init__(self, n_jobs: int, address: str | None, cpus: float, gpus: float) -> None:
        self._n_jobs, self._address = n_jobs, address
        self._cpus, self._gpus = cpus, gpus

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and wait for all of them.

        Raises:
            InputError: If Ray is missing.
        """
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "hydra/launcher=ray needs Ray: pip install 'deepprune[ray]'."
            ) from error
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        is_mine = not ray.is_initialized()
        if is_mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cores = max(1, round(self._n_jobs * self._cpus)) if self._address is None else None
            ray.init(self._address, num_cpus=cores, include_dashboard=False)
        try:
            needs: dict[str, Any] = {"num_cpus": self._cpus, "num_gpus": self._gpus}
            remote: Any = ray.remote(max_calls=1, max_retries=0, **needs)(_run)
            shared = ray.put((self._context, self._task, self._config, Singleton.get_state()))
            jobs = [
                remote.remote(shared, list(overrides), number)
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ]
            return [
                self._result(job, list(overrides), number)
                for number, (job, overrides) in enumerate(
                    zip(jobs, job_overrides, strict=True), initial_job_idx
                )
            ]
        finally:
            if is_mine:
                with suppress(Exception):
                    ray.shutdown()

    def _result(self, reference: Any, overrides: list[str], number: int) -> JobReturn:
        """Return the result of a job; a job whose process died has failed."""
        import ray

        try:
            result: JobReturn = ray.get(reference)
        except ray.exceptions.RayError as error:
            job = _job_config(self._context, self._config, overrides, number)
            folder = Path(job.hydra.sweep.dir, job.hydra.sweep.subdir)
            reason = f"its Ray worker was lost: {type(error).__name__}"
            print(f"run {number}: {reason}\n{error}", file=sys.stderr)
            write_atomic(folder / FAILURE, json.dumps({"exit_code": 1, "reason": reason}))
            write_atomic(
                folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(job.hydra.overrides.task)
            )
            # COMPLETED as for a run that fails by itself: for a FAILED one Hydra raises the error
            # and prints no table.
            result = JobReturn(status=JobStatus.COMPLETED, working_dir=str(folder))
            result.return_value = None
        return result


def _job_config(
    context: HydraContext, config: DictConfig, overrides: list[str], number: int
) -> Any:
    job = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = f"{job.hydra.job.name}_{number}"
        job.hydra.job.num = number
    return job


def _run(shared: tuple[Any, ...], overrides: list[str], number: int) -> JobReturn:
    """Run a job in a process of the cluster."""
    context, task, config, singletons = shared
    setup_globals()
    Singleton.set_state(singletons)
    job = _job_config(context, config, overrides, number)
    HydraConfig.instance().set_config(job)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
