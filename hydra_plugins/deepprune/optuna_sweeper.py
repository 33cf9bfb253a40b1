"""Hydra sweeper: Optuna proposes the runs of a multirun; a killed study can be resumed.

Hydra's own plugin requires optuna < 3, and when a seeded study resumes, it repeats its proposals.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from deepprune.core.errors import InputError
from deepprune.core.files import write_atomic
from deepprune.core.provenance import FAILURE

if TYPE_CHECKING:  # Hydra imports this module at every start
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STUDY, RESULTS = "optuna.jsonl", "optimization_results.json"
NO_OBJECTIVE = "no validation question has unfinished pairs of both classes: lower prefix.k"


class OptunaSweeper(Sweeper):
    """Maximises the value that a job returns with Optuna's TPE (Watanabe 2023, arXiv:2304.11127).

    The study is a journal of JSON lines in ``hydra.sweep.dir``; trial n is run n. When it resumes,
    interrupted runs are launched again in their folders. The later proposals are the same as
    without the interruption, because a trial's seed depends on its number alone.

    Args:
        n_trials: Total number of trials, including those before an interruption.
        n_jobs: Number of trials proposed and launched together.
        seed: Seed of the proposals.
        startup_trials: Number of random trials at the start.
        params: Option -> values to search, as on the command line, which takes precedence.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        seed: int,
        startup_trials: int,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self._n_trials, self._n_jobs = n_trials, n_jobs
        self._seed, self._startup_trials = seed, startup_trials
        self._params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Propose, launch and record trials until there are ``n_trials``.

        Raises:
            InputError: If Optuna is missing, there is nothing to search, a value cannot be
                searched, the folder has another study, or no trial has an objective although none
                failed.
        """
        given = [*(f"{k}={v}" for k, v in self._params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        space, fixed = search_space(parser.parse_overrides(given))
        folder = Path(self._config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, folder / "multirun.yaml")
        study = _open_study(folder / STUDY, space, fixed)
        while batch := self._next_batch(study, space):
            overrides = [[*fixed, *_overrides(trial)] for trial in batch]
            jobs = self._launcher.launch(overrides, initial_job_idx=batch[0].number)
            for trial, job in zip(batch, jobs, strict=True):
                _tell(study, trial, job)
        _report(study, fixed, folder / RESULTS)

    def _next_batch(
        self, study: Study, space: Mapping[str, BaseDistribution]
    ) -> Sequence[FrozenTrial]:
        """Return trials to launch, with successive numbers; interrupted ones come first."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        from deepprune.core.seeding import derive

        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if trial.params.keys() != space.keys():  # killed while it was proposed
                study.tell(trial.number, state=TrialState.FAIL)
        while (
            len(running := study.get_trials(states=(TrialState.RUNNING,))) < self._n_jobs
            and (n := len(study.get_trials(deepcopy=False))) < self._n_trials
        ):
            seed = derive(self._seed, "trial", n) % 2**32
            study.sampler = TPESampler(seed=seed, n_startup_trials=self._startup_trials)
            study.ask(dict(space))
        batch = running[: self._n_jobs]
        return [t for i, t in enumerate(batch) if t.number == batch[0].number + i]


def search_space(
    overrides: Sequence[Override],
) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Return the search space, and the overrides that all trials share; the last of a key counts.

    ``a,b`` and ``choice(a, b)`` are categories, ``range(1, 9, 2)`` equally spaced numbers without
    the end, ``interval(0, 1)`` any number, ``int(interval(1, 9))`` any integer, ``tag(log,
    interval(1e-5, 1e-3))`` numbers on a logarithmic scale.

    Raises:
        InputError: If there is nothing to search, or a value cannot be searched.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(
            "hydra/sweeper=optuna needs Optuna: pip install 'deepprune[sweeps]'."
        ) from error
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        space.pop(key, None), fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
            continue
        try:
            space[key] = _distribution(override)
        except ValueError as error:
            raise InputError(f"{override.input_line} cannot be searched: {error}") from error
    if not space:
        raise InputError(
            "hydra/sweeper=optuna needs options to search, got none: give one several values, e.g. "
            "'model.optimizer.lr=tag(log,interval(1e-5,1e-3))' loss=bce,focal."
        )
    return space, list(fixed.values())


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution

    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return _numbers(value.start, value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        if not numbers:
            raise ValueError("the range is empty.")
        return _numbers(numbers[0], numbers[-1], step=abs(value.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _numbers(low: Any, high: Any, **how: Any) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    is_whole = isinstance(low, int)
    return IntDistribution(low, high, **how) if is_whole else FloatDistribution(low, high, **how)


def _open_study(path: Path, space: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> Study:
    """Open the study of a folder, or create it."""
    import optuna
    from optuna.distributions import distribution_to_json
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="deepprune",
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize",
        load_if_exists=True,
    )
    searched = {
        "search": {name: distribution_to_json(d) for name, d in sorted(space.items())},
        "overrides": sorted(o for o in fixed if not o.startswith("logger")),
    }
    earlier = study.user_attrs.get("searched", searched)
    if changed := [kind for kind in searched if earlier[kind] != searched[kind]]:
        kind = changed[0]
        raise InputError(
            f"{path.parent} has a study of another {kind} ({earlier[kind]}, now "
            f"{searched[kind]}): resume with the same, or choose another hydra.sweep.dir."
        )
    study.set_user_attr("searched", searched)
    return study


def _overrides(trial: FrozenTrial) -> list[str]:
    """Format the parameters as overrides; six digits are enough for a search."""
    return [
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in trial.params.items()
    ]


def _tell(study: Study, trial: FrozenTrial, job: JobReturn) -> None:
    """Record the result of a trial; without an objective it has failed."""
    from optuna.trial import TrialState

    from deepprune.judge.measure.comparison import SUMMARY

    value = job.return_value if job.status == JobStatus.COMPLETED else None
    if value is None:
        study.tell(trial.number, state=TrialState.FAIL)
        summary = Path(job.working_dir or "", SUMMARY)
        is_ok = summary.exists() and json.loads(summary.read_text())["status"] == "ok"
        outcome = f"has no objective: {NO_OBJECTIVE}" if is_ok else "failed"
        print(f"trial {trial.number} {outcome}")
    else:
        study.tell(trial.number, value)
        print(f"trial {trial.number}: {value:.4f}; best {study.best_value:.4f}")


def _report(study: Study, fixed: Sequence[str], path: Path) -> None:
    """Write the best trial and print the command that runs it."""
    from optuna.trial import TrialState

    trials = study.get_trials()
    n_failed = sum(t.state == TrialState.FAIL for t in trials)
    facts: dict[str, Any] = {"trials": len(trials), "failed": n_failed}
    if n_failed < len(trials):
        best = study.best_trial
        program = "python train.py" if sys.argv[0].endswith("train.py") else sys.argv[0]
        command = f"{program} {shlex.join([*fixed, *_overrides(best), 'hydra.mode=RUN'])}"
        facts |= {"best_trial": best.number, "best_value": best.value, "best_params": best.params}
        facts["command"] = command
        print(f"best of {len(trials)} trials: {best.number}, {best.value:.4f} on validation data")
        print(command)
    write_atomic(path, json.dumps(facts, indent=2))
    if n_failed == len(trials) and not any(path.parent.glob(f"*/{FAILURE}")):  # else: exit code
        raise InputError(f"no trial has an objective: {NO_OBJECTIVE}.")
