"""The commands as a user calls them: in a process of their own, offline, in an empty folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import save_tiny_bert

from deepprune.cli import config_folder

TRAIN = [sys.executable, "-m", "deepprune.cli", "train"]
EVALUATE = [sys.executable, "-m", "deepprune.cli", "evaluate"]
RUNS = ("whole", "cut")
SMALL = ["sweep.questions=6", "sweep.traces=6", "sweep.resamples=2", "logger=none"]


def call(arguments, folder, check=0):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def children(pid):
    return [
        int(p) for f in Path(f"/proc/{pid}/task").glob("*/children") for p in f.read_text().split()
    ]


def is_alive(pid):
    """A process that has ended and that nobody has waited for yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_evaluate_writes_its_rows_and_says_where(tmp_path):
    wandb = [*SMALL[:-1], "sweep.thresholds=[0.3,0.7]"]
    done = call([*EVALUATE, *wandb, "hydra.run.dir=r"], tmp_path)
    last = ["figure: r/accuracy_tokens.png", "results: r/results.jsonl", "run: r"]
    assert done.stdout.splitlines()[-3:] == last
    written = rows(tmp_path / "r" / "results.jsonl")
    assert [r["policy"] for r in written] == ["consensus"] * 5 + ["deepprune"] * 2
    needed = {"accuracy", "accuracy_low", "accuracy_high", "token_saving", "net_saving", "seconds"}
    assert needed <= written[-1].keys()
    assert (tmp_path / "r" / "accuracy_tokens.png").stat().st_size > 10_000
    provenance = json.loads((tmp_path / "r" / "provenance.json").read_text())
    assert provenance["overrides"] == wandb
    (offline,) = (tmp_path / "r" / "wandb").glob("offline-run-*")
    media = offline / "files" / "media"
    assert [p.suffix for p in (media / "images" / "prune").iterdir()] == [".png"]
    (logged,) = (media / "table" / "prune").iterdir()
    assert len(json.loads(logged.read_text())["data"]) == 7


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks its workers up in /proc")
def test_a_killed_sweep_goes_on_to_the_same_rows(tmp_path):
    """Its two worker processes do not outlive it."""
    large = ["sweep.questions=30", "sweep.resamples=20", "distributed.n=2"]
    command = [*EVALUATE, *SMALL, *large]
    call([*command, "hydra.run.dir=whole"], tmp_path)
    process = subprocess.Popen(
        [*command, "hydra.run.dir=cut"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    outcomes = tmp_path / "cut" / "outcomes"
    while process.poll() is None and not list(outcomes.glob("*.npz")):
        time.sleep(0.02)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker waits for ever"
        time.sleep(0.05)
    recorded = {f: f.stat().st_mtime_ns for f in outcomes.glob("*.npz")}
    assert 0 < len(recorded) < 30, "killed too late to show anything"
    call([*command, "hydra.run.dir=cut"], tmp_path)
    assert len(list(outcomes.iterdir())) == 30
    assert recorded == {f: f.stat().st_mtime_ns for f in recorded}, "what stood was done again"
    same = [(tmp_path / d / "results.jsonl").read_bytes() for d in ("whole", "cut")]
    assert same[0] == same[1]


def test_other_traces_are_refused_in_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPPRUNE_CACHE", str(tmp_path / "cache"))
    trace = {"question": "1+1?", "gold": "2", "model": "m", "text": r"so \boxed{2}"}
    command = [*EVALUATE, "traces=t.jsonl", "generator={params: 1e6, layers: 2, hidden: 8}"]
    for text, code in (("one", 0), ("two", 2)):
        lines = [json.dumps(trace | {"text": f"{text} {i} {trace['text']}"}) for i in range(3)]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        done = call([*command, "logger=none", "hydra.run.dir=r"], tmp_path, check=code)
    assert "inputs.traces" in done.stderr


TINY_FIT = [
    "data.pairs_per_question=6", "data.eval_pairs_per_question=8", "prefix.k=16",
    "trainer.max_epochs=2", "callbacks.training.last.every_n_train_steps=1", "sweep.questions=2",
    "sweep.traces=4", "sweep.resamples=1", "logger=none",
]  # fmt: skip


@pytest.mark.timeout(300)  # four processes that each import torch
def test_a_killed_training_goes_on_to_the_same_judge_and_rows(tmp_path):
    """Killed in mid-epoch by SIGKILL, a training ends in the same weights, step and results."""
    fit = [*TRAIN, *TINY_FIT, f"model.backbone.source={save_tiny_bert(tmp_path / 'tiny')}"]
    call([*fit, "hydra.run.dir=whole"], tmp_path)
    process = subprocess.Popen(
        [*fit, "hydra.run.dir=cut"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "judge").exists(), "killed too late to show anything"
    done = call([*fit, "hydra.run.dir=cut"], tmp_path)
    assert "resuming from cut/checkpoints/last.ckpt" in done.stdout
    exports = [json.loads((tmp_path / d / "judge" / "judge.json").read_text()) for d in RUNS]
    assert exports[0] == exports[1]
    assert rows(tmp_path / "whole" / "results.jsonl") == rows(tmp_path / "cut" / "results.jsonl")
    done = call([*fit, "hydra.run.dir=cut"], tmp_path)
    assert "the judge of this run is trained" in done.stdout


@pytest.mark.timeout(300)
def test_another_configuration_is_refused_in_the_same_folder(tmp_path):
    call([*EVALUATE, *SMALL, "hydra.run.dir=r"], tmp_path)
    done = call([*EVALUATE, *SMALL, "seed=1", "hydra.run.dir=r"], tmp_path, check=2)
    assert done.stderr.startswith("error: r holds a run of another configuration (")
    assert "seed: 0 -> 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep.thresholds=[50]"], "thresholds must lie in [0, 1], got 50"),
        (["prefix.k=0"], "prefix.k must be >= 1, got 0"),
        (["judge=lexicl"], "did you mean lexical?"),
        (["sweeep.traces=4"], "did you mean sweep.traces?"),
        (["traces=nowhere"], "got 'nowhere'"),
        (["traces=other.parquet"], "other.parquet"),
        (["traces=empty"], "empty"),
        (["traces=single.jsonl"], "at least 2 traces"),
        (["traces=nogold.jsonl"], "accuracy needs gold answers"),
        (["judge=trained", "judge.path=empty"], "judge.json"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(arguments, said, tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    (tmp_path / "empty").mkdir()
    trace = {"question": "1+1?", "gold": "2", "model": "m", "text": r"so \boxed{2}"}
    (tmp_path / "single.jsonl").write_text(json.dumps(trace) + "\n")
    without = {k: v for k, v in trace.items() if k != "gold"}
    (tmp_path / "nogold.jsonl").write_text(
        "".join(json.dumps(without | {"text": t + r" \boxed{2}"}) + "\n" for t in "ab")
    )
    monkeypatch.setenv("DEEPPRUNE_CACHE", str(tmp_path / "cache"))
    size = "generator={params: 1e6, layers: 2, hidden: 8}"
    done = call([*EVALUATE, size, "logger=none", *arguments], tmp_path, check=2)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert "results:" not in done.stdout


def test_help_is_quick_and_loads_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['train.py', '--help']\n"
        "from deepprune.cli import train; train()\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    done = call([sys.executable, "-c", code], tmp_path)
    assert "loss        focal | bce" in done.stdout
    assert config_folder().is_dir()
