"""Multiruns as a user starts them: ablations, launchers, the sweeper; killed and gone on with."""

import gc
import inspect
import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from commandline import call, killed_at, rows, run, started
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from hydra.utils import get_object
from omegaconf import OmegaConf
from pytorch_lightning import Trainer

from deepprune.callbacks.multirun_table import MultirunTable
from deepprune.cli import composed, config_folder
from deepprune.config import build
from deepprune.config.schemas import register
from deepprune.core.errors import InputError
from deepprune.data.pairs import build_part
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.comparison import read_runs
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report import comparing, figures

LINEAR = [
    "model=linear", "trainer.max_steps=4", "prefix.k=32", "data.pairs_per_question=8",
    "data.eval_pairs_per_question=12", "data.datasets=[reasoning_gym/chain_sum]", "sweep=none",
    "logger=none",
]  # fmt: skip
ABLATION = [
    "train", "experiment=ablate_prefix", *LINEAR[:2], *LINEAR[3:-2], "logger=none",
    "prefix=first_tokens,fraction", "seed=0",
    "hydra.callbacks.comparison.baseline.prefix=first_tokens",
]  # fmt: skip


def test_a_killed_ablation_resumes_to_the_same_table(tmp_path):
    """One command without -m, killed in its second run; what was finished is not done again."""
    said = run(*ABLATION, "hydra.sweep.dir=whole", folder=tmp_path).stdout.splitlines()
    assert said[0] == "2 runs: prefix=first_tokens,fraction"
    assert [line.partition(",")[0] for line in said if "runs done" in line] == [
        "1 of 2 runs done",
        "2 of 2 runs done",
    ]
    cut = [*ABLATION, "hydra.sweep.dir=cut"]
    with killed_at("judge.json", 2):
        run(*cut, folder=tmp_path)
    finished = [tmp_path / "cut" / "0" / name for name in ("summary.json", "judge")]
    before = [f.stat().st_mtime_ns for f in finished]
    assert not (tmp_path / "cut" / "1" / "judge").exists()
    done = run(*cut, folder=tmp_path)
    assert [f.stat().st_mtime_ns for f in finished] == before
    assert "finished before: cut/0" in done.stdout
    assert "\n1 of 2 runs done\n" in done.stdout  # in no time: no estimate
    tables = [rows(tmp_path / name / "comparison.jsonl") for name in ("whole", "cut")]
    assert tables[0] == tables[1]
    assert [(row["overrides"]["prefix"], row["runs"]) for row in tables[0]] == [
        ("first_tokens", ["0"]),
        ("fraction", ["1"]),
    ]
    assert tables[0][1]["baseline"]["prefix"] == "first_tokens"
    low, high = tables[0][1]["differences"]["auroc_within_unfinished"][1:]
    assert low < high
    assert (tmp_path / "cut" / "comparison.png").stat().st_size > 5_000
    assert (tmp_path / "cut" / "comparison.svg").stat().st_size > 5_000
    for name in ("cut", "cut/0"):
        assert "vegaEmbed" in (tmp_path / name / "report.html").read_text()
    again = run("report", "cut", folder=tmp_path)
    assert "first_tokens (0), fraction (1)" in again.stdout
    assert rows(tmp_path / "cut" / "comparison.jsonl") == tables[1]
    one_row = run("report", "cut", "--by", "seed", "--markdown", folder=tmp_path)
    assert "2 finished runs in 1 rows" in one_row.stdout
    run("report", "cut", "--by", "colour", folder=tmp_path, code=2)


def test_a_trained_network_leaves_the_memory_before_the_next(tmp_path, without_collection):
    trainers = [each for each in gc.get_objects() if type(each) is Trainer]
    run("train", "-m", "experiment=none", *LINEAR, "seed=0,1", folder=tmp_path)
    left = [each for each in gc.get_objects() if type(each) is Trainer]
    assert len(left) == len(trainers)


@pytest.fixture
def without_collection():
    """No automatic collection: a large model would wait for it long."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
def test_an_ablation_that_gets_sigkill_resumes(tmp_path):
    cut = [*ABLATION, "hydra.sweep.dir=cut"]
    first = tmp_path / "cut" / "0" / "summary.json"
    with started(*cut, folder=tmp_path, until=first.exists):
        pass
    assert "finished before: cut/0" in call(*cut, folder=tmp_path).stdout
    assert [row["missing"] for row in rows(tmp_path / "cut" / "comparison.jsonl")] == [[], []]


LAUNCHERS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"no {package}"))
    for name, package in (
        ("processes", "hydra_plugins.hydra_joblib_launcher"),
        ("submitit_local", "submitit"),
        ("ray", "ray"),
    )
]


@pytest.fixture(scope="module")
def in_this_process(tmp_path_factory):
    """The comparison that Hydra's own launcher leads to."""
    folder = tmp_path_factory.mktemp("basic")
    run("train", "-m", *LINEAR, "prefix.k=32,48", "hydra.sweep.dir=r", folder=folder)
    return rows(folder / "r" / "comparison.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_does_the_same_runs_and_tells_of_failures(launcher, tmp_path, in_this_process):
    """The third run has a bad value: the others are done, the exit code is its own."""
    command = ["train", "-m", *LINEAR, "prefix.k=32,48,0", f"hydra/launcher={launcher}"]
    done = call(*command, "hydra.sweep.dir=r", folder=tmp_path, code=2)
    *ok, failed = rows(tmp_path / "r" / "comparison.jsonl")
    assert [row["metrics"] for row in ok] == [row["metrics"] for row in in_this_process]
    assert (failed["runs"], failed["missing"]) == ([], ["2"])
    assert "run 2 failed: prefix.k must be >= 1, got 0" in done.stdout


OPTUNA = [
    "train", "-m", "hydra/sweeper=optuna", *LINEAR, "hydra.sweeper.n_trials=5",
    "hydra.sweeper.startup_trials=2", "hydra.sweeper.n_jobs=2", "model.hidden=range(0,9,4)",
    "model.optimizer.lr=tag(log,interval(0.001,0.1))", "data.only_unfinished=true,false",
]  # fmt: skip
needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="no optuna")


@pytest.mark.slow
@needs_optuna
def test_a_killed_search_resumes_to_the_same_trials(tmp_path):
    """Also the trial that was running when it was killed, in its own folder."""
    call(*OPTUNA, "hydra.sweep.dir=whole", folder=tmp_path)
    cut = [*OPTUNA, "hydra.sweep.dir=cut"]
    fourth = tmp_path / "cut" / "3" / "config.json"
    with started(*cut, folder=tmp_path, until=fourth.exists):
        pass
    done = call(*cut, folder=tmp_path)
    found = [json.loads((tmp_path / d / "optimization_results.json").read_text()) for d in CUTS]
    assert found[0].pop("command").split() == found[1].pop("command").split()
    assert found[0] == found[1]
    assert found[0]["trials"] == 5
    runs = [[json.loads((tmp_path / d / str(n) / "summary.json").read_text()) for n in range(5)]
            for d in CUTS]  # fmt: skip
    assert runs[0] == runs[1]
    assert len({run["overrides"]["model.optimizer.lr"] for run in runs[0]}) == 5
    assert found[0]["best_value"] == max(run["objective"] for run in runs[0])
    assert "trial 4: " in done.stdout
    done = call(*cut, "model.warmup=0.2", folder=tmp_path, code=2)
    assert "has a study of another overrides" in done.stderr


CUTS = ("whole", "cut")


@needs_optuna
def test_a_search_tells_what_it_cannot_do(tmp_path):
    search = ["train", "-m", "hydra/sweeper=optuna", *LINEAR, "hydra.sweep.dir=r"]
    assert "needs options to search" in run(*search, folder=tmp_path, code=2).stderr
    # Trials that fail are trials, and the search ends with their exit code.
    failing = [*search, "hydra.sweeper.n_trials=2", "model.hidden=-1,-2", "hydra.sweep.dir=f"]
    run(*failing, folder=tmp_path, code=2)
    found = json.loads((tmp_path / "f" / "optimization_results.json").read_text())
    assert found == {"trials": 2, "failed": 2}


@pytest.fixture
def multirun(tmp_path):
    """The folder of one finished and one failed run, and what ends a multirun there."""
    for name, code in (("0", 0), ("1", 2)):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text(f"- seed={name}\n")
        if code:
            facts = json.dumps({"exit_code": code, "reason": "bad"})
            (tmp_path / name / "failure.json").write_text(facts)
        else:
            scores = PairScores(
                np.array([0.9, 0.1]), np.array([1, 0]), np.array(["q", "q"]),
                np.array(["m", "m"]), np.array([True, True]),
            )  # fmt: skip
            scores.save(tmp_path / name / "test_scores.npz")
            (tmp_path / name / "summary.json").write_text('{"status": "ok"}')
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})


def test_a_table_that_cannot_be_made_does_not_hide_the_exit_code(multirun, monkeypatch, capsys):
    """Hydra makes a warning of what a callback raises."""

    def fail(*_, **__):
        raise RuntimeError("no table")

    monkeypatch.setattr(comparing, "compare", fail)
    with pytest.raises(SystemExit, match="2"):
        MultirunTable().on_multirun_end(multirun)
    assert "RuntimeError: no table" in capsys.readouterr().err


def test_without_altair_there_is_a_table(multirun, monkeypatch, capsys):
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    monkeypatch.setattr(figures, "can_draw", figures.can_draw.__wrapped__)
    with pytest.raises(SystemExit, match="2"):
        MultirunTable().on_multirun_end(multirun)
    said = capsys.readouterr().out
    assert "pip install 'deepprune[report]'" in said
    assert not (Path(multirun.hydra.sweep.dir) / "report.html").exists()
    assert "results: " in said


@needs_optuna
def test_a_trial_without_an_objective_has_not_failed(tmp_path, capsys):
    import optuna

    from hydra_plugins.deepprune.optuna_sweeper import _report, _tell

    study = optuna.create_study(direction="maximize")
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "summary.json").write_text('{"status": "ok"}')
    job = JobReturn(status=JobStatus.COMPLETED, working_dir=str(tmp_path / "0"))
    space = {"a": optuna.distributions.CategoricalDistribution(["choice(x, y)"])}
    _tell(study, study.ask(space), job)
    assert "trial 0 has no objective: no validation question" in capsys.readouterr().out
    with pytest.raises(InputError, match="no trial has an objective"):
        _report(study, [], tmp_path / "results.json")
    job.return_value = 0.7
    _tell(study, study.ask(space), job)
    _report(study, ["loss=bce"], tmp_path / "results.json")
    command = shlex.split(json.loads((tmp_path / "results.json").read_text())["command"])
    assert command[-3:] == ["loss=bce", "a=choice(x, y)", "hydra.mode=RUN"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="no ray")
def test_a_killed_ray_worker_fails_its_run_alone(tmp_path, monkeypatch):
    import ray

    from hydra_plugins.deepprune.ray_launcher import RayLauncher

    def get(reference):
        if reference == "lost":
            raise ray.exceptions.WorkerCrashedError
        return reference

    monkeypatch.setattr(ray, "get", get)
    register()
    launcher = RayLauncher(1, None, 1, 0)
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(config_folder())))
    config = loader.load_configuration("train", [f"hydra.sweep.dir={tmp_path}"], RunMode.MULTIRUN)
    launcher.setup(
        hydra_context=HydraContext(loader, Callbacks()), task_function=print, config=config
    )
    done = JobReturn(status=JobStatus.COMPLETED)
    assert launcher._result(done, ["seed=0"], 0) is done
    assert launcher._result("lost", ["seed=1"], 1).return_value is None
    (run,) = read_runs(tmp_path)
    assert (run.name, run.status, run.exit_code) == ("1", "failed", 1)
    assert run.overrides == {"seed": "1"}


def test_a_run_hands_sweepers_its_validation_auroc(tmp_path):
    """And never a figure of the test part."""
    run("train", *LINEAR, "hydra.run.dir=r", folder=tmp_path)
    plan = build.train(composed("train", LINEAR))
    pairs = build_part("val", plan.load_splits().val, plan.rule, max_pairs=12)
    scores = PairScores.of(pairs, load_judge(tmp_path / "r" / "judge").score(pairs))
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["objective"] == pytest.approx(scores.metric("auroc_within_unfinished"))
    assert summary["objective"] != summary["metrics"]["auroc_within_unfinished"][0]
    assert not (tmp_path / "r" / "results.jsonl").exists()


def hydra_config(*overrides):
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True).hydra


@pytest.mark.parametrize("name", ["processes", "ray", "slurm"])
def test_every_launcher_has_options_that_its_plugin_knows(name):
    """The plugins have schemas of their own; Slurm is not started here."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = dict(hydra_config(f"hydra/launcher={name}").launcher)
    inspect.signature(get_object(launcher.pop("_target_"))).bind(**launcher)


@needs_optuna
def test_what_is_searched_is_written_as_on_the_command_line():
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    from hydra_plugins.deepprune.optuna_sweeper import search_space

    given = [
        "a=x,y", "b=choice(1,2)", "c=range(1,9,2)", "d=interval(0,1)", "e=int(interval(1,9))",
        "f=tag(log,interval(1e-5,1e-3))", "g=range(0,0.3,0.1)", "h=1,2", "h=3", "data.x=[1,2]",
    ]  # fmt: skip
    space, fixed = search_space(OverridesParser.create().parse_overrides(given))
    assert space == {
        "a": CategoricalDistribution(["x", "y"]),
        "b": CategoricalDistribution(["1", "2"]),
        "c": IntDistribution(1, 7, step=2),
        "d": FloatDistribution(0, 1),
        "e": IntDistribution(1, 9),
        "f": FloatDistribution(1e-5, 1e-3, log=True),
        "g": FloatDistribution(0, 0.2, step=0.1),
    }
    assert fixed == ["h=3", "data.x=[1,2]"]
    tuned = hydra_config("experiment=tune_judge").sweeper
    params = [f"{name}={values}" for name, values in tuned.params.items()]
    space, fixed = search_space(OverridesParser.create().parse_overrides(params))
    assert (set(space), fixed) == ({"model.optimizer.lr", "loss", "sampler"}, [])
