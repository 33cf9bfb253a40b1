"""Ctrl-C and SIGTERM in a training: the exit code, how to resume, what a multirun's table says."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import wandb
from tiny_models import save_tiny_bert

from deepprune.callbacks.resume_point import ResumePoint
from deepprune.cli import main

FIT = [
    "train", "data.pairs_per_question=6", "data.eval_pairs_per_question=8", "prefix.k=16",
    "trainer.max_steps=4", "callbacks.training.last.every_n_train_steps=1", "sweep=none",
    "logger=none", "experiment=none", "data.datasets=[reasoning_gym/chain_sum]",
]  # fmt: skip
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    tiny = save_tiny_bert(tmp_path_factory.mktemp("model") / "tiny")
    return [*FIT, f"model.backbone.source={tiny}"]


def interrupt_at(number, step, monkeypatch):
    """Raise the signal as soon as the resume point of a step is written."""
    save = ResumePoint._save

    def and_interrupt(self, trainer):
        save(self, trainer)
        if trainer.global_step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(ResumePoint, "_save", and_interrupt)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_training_says_how_it_resumes(number, fit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(each) for each in EXIT_CODES]
    interrupt_at(number, 2, monkeypatch)
    with pytest.raises(SystemExit) as end:
        main([*fit, "hydra.run.dir=r"])
    assert end.value.code == EXIT_CODES[number]
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "interrupted; the same command with hydra.run.dir=r resumes"
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "r" / "judge").exists()
    assert [signal.getsignal(each) for each in EXIT_CODES] == handlers
    with pytest.raises(SystemExit, match="0"):
        main([*fit, "hydra.run.dir=r"])
    assert "r/checkpoints/last.ckpt" in capsys.readouterr().out
    assert (tmp_path / "r" / "judge").exists()


@pytest.mark.parametrize("is_preemptible", [False, True])
def test_an_agents_run_ends_by_the_signal_or_as_preempted(
    is_preemptible, fit, tmp_path, monkeypatch, request
):
    """W&B's agent counts exit 143 as a failure, but not a signal; its server requeues 143."""
    request.addfinalizer(wandb.teardown)  # W&B keeps the agent's environment as long as it is up
    monkeypatch.chdir(tmp_path)
    agent = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_MODE": "offline"}
    for name, value in agent.items():
        monkeypatch.setenv(name, value)
    marked, killed = [], []
    monkeypatch.setattr("wandb.Run.mark_preempting", lambda run: marked.append(run.id))
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append(number))
    handler = signal.getsignal(signal.SIGTERM)
    interrupt_at(signal.SIGTERM, 2, monkeypatch)
    logged = [word for word in fit if word != "logger=none"]
    with pytest.raises(SystemExit) as end:
        main([*logged, f"logger.preemptible={str(is_preemptible).lower()}", "prefix.k=16"])
    signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 143
    assert marked == (["r1"] if is_preemptible else [])
    assert (signal.SIGTERM in killed) is not is_preemptible
    assert (tmp_path / "runs/sweep-s1/r1/checkpoints/last.ckpt").exists()


def test_the_table_of_an_interrupted_multirun_names_what_is_missing(
    fit, tmp_path, monkeypatch, capsys
):
    """The interrupt comes in the third of four runs, the first that trains for three steps."""
    monkeypatch.chdir(tmp_path)
    interrupt_at(signal.SIGTERM, 3, monkeypatch)
    options = ["trainer.max_steps=2,4", "loss=bce,focal"]
    with pytest.raises(SystemExit) as end:
        main([*fit[:1], "-m", *fit[1:], *options, "hydra.sweep.dir=m"])
    assert end.value.code == 143
    told = capsys.readouterr()
    assert "the same command with hydra.sweep.dir=m resumes" in told.err
    assert "run 2 interrupted" in told.out
    assert "run 3 not started" in told.out
    rows = [
        json.loads(line) for line in (tmp_path / "m" / "comparison.jsonl").read_text().splitlines()
    ]
    assert [(row["runs"], row["missing"]) for row in rows] == [
        (["0"], []), (["1"], []), ([], ["2"]), ([], ["3"]),
    ]  # fmt: skip
    assert rows[3]["overrides"]["loss"] == "focal"


@pytest.mark.slow
def test_a_real_sigterm(fit, tmp_path):
    endless = ["trainer.max_steps=5000", "trainer.max_epochs=-1", "hydra.run.dir=r"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepprune.cli", *fit, *endless],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    last = tmp_path / "r" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 143, said
    assert said.strip().endswith("the same command with hydra.run.dir=r resumes")
    assert "Traceback" not in said
