"""`deepprune train` and `evaluate` as a user calls them, offline, in an empty folder."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from commandline import call, killed_at, rows, run, started
from tiny_models import save_tiny_bert, save_tiny_qwen3

from deepprune.cli import config_folder
from deepprune.commands.fit import _group

RESULTS = "results.jsonl"
SMALL = ["sweep.questions=6", "sweep.traces=6", "sweep.resamples=2", "logger=none"]


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
    """In a process of its own, as the console script starts it, with W&B offline."""
    wandb = [*SMALL[:-1], "sweep.thresholds=[0.3,0.7]"]
    done = call("evaluate", *wandb, "hydra.run.dir=r", folder=tmp_path)
    assert done.stdout.splitlines()[-3:] == [
        "report: r/report.html", "results: r/results.jsonl", "run: r"
    ]  # fmt: skip
    assert len(rows(tmp_path / "r" / "questions.jsonl")) == 6
    written = rows(tmp_path / "r" / "results.jsonl")
    assert [r["policy"] for r in written] == ["consensus"] * 6 + ["deepprune"] * 2
    needed = {
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "token_saving",
        "net_saving",
        "engine_seconds",
    }
    assert needed <= written[-1].keys()
    assert (tmp_path / "r" / "accuracy_tokens.png").stat().st_size > 10_000
    provenance = json.loads((tmp_path / "r" / "provenance.json").read_text())
    assert provenance["overrides"] == wandb
    (offline,) = (tmp_path / "r" / "wandb").glob("offline-run-*")
    media = offline / "files" / "media"
    assert [p.suffix for p in (media / "images" / "prune").iterdir()] == [".png"]
    (results,) = (media / "table" / "prune").glob("results_*")
    assert len(json.loads(results.read_text())["data"]) == 8


def test_a_killed_sweep_resumes_to_the_same_rows(tmp_path):
    """Killed at its first question, at its fourth, at its fifth, and at its rows."""
    command = ["evaluate", *SMALL, "distributed.n=1"]
    run(*command, "hydra.run.dir=whole", folder=tmp_path)
    outcomes = tmp_path / "cut" / "outcomes"
    for file, n, n_stored in (("*.npz", 1, 0), ("*.npz", 4, 3), ("*.npz", 2, 4), (RESULTS, 1, 6)):
        with killed_at(file, n):
            run(*command, "hydra.run.dir=cut", folder=tmp_path)
        recorded = {f: f.stat().st_mtime_ns for f in outcomes.glob("*.npz")}
        assert len(recorded) == n_stored
        assert not (tmp_path / "cut" / RESULTS).exists()
    run(*command, "hydra.run.dir=cut", folder=tmp_path)
    assert recorded == {f: f.stat().st_mtime_ns for f in recorded}, "what stood was done again"
    same = [(tmp_path / d / RESULTS).read_bytes() for d in ("whole", "cut")]
    assert same[0] == same[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks its workers up in /proc")
def test_a_sweep_that_gets_sigkill_leaves_no_worker_and_resumes(tmp_path):
    command = [
        "evaluate", *SMALL, "sweep.questions=30", "sweep.resamples=20", "distributed.n=2"
    ]  # fmt: skip
    call(*command, "hydra.run.dir=whole", folder=tmp_path)
    outcomes = tmp_path / "cut" / "outcomes"
    is_under_way = lambda: list(outcomes.glob("*.npz"))  # noqa: E731
    with started(*command, "hydra.run.dir=cut", folder=tmp_path, until=is_under_way) as process:
        workers = children(process.pid)
    assert len(workers) >= 2
    deadline = time.monotonic() + 120
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker waits for ever"
        time.sleep(0.05)
    assert 0 < len(list(outcomes.glob("*.npz"))) < 30, "killed too late to show anything"
    call(*command, "hydra.run.dir=cut", folder=tmp_path)
    same = [(tmp_path / d / RESULTS).read_bytes() for d in ("whole", "cut")]
    assert same[0] == same[1]


def test_runs_have_folders_of_their_own_and_latest_is_the_last(tmp_path):
    """Also within one second."""
    said = [run("evaluate", *SMALL, folder=tmp_path).stdout.splitlines()[-1] for _ in range(2)]
    folders = [tmp_path / line.removeprefix("run: ") for line in said]
    assert folders[0] != folders[1]
    assert (tmp_path / "runs" / "latest").resolve() == folders[1]
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_other_traces_are_refused_in_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPPRUNE_CACHE", str(tmp_path / "cache"))
    trace = {"question": "1+1?", "gold": "2", "model": "m", "text": r"so \boxed{2}"}
    command = ["evaluate", "traces=t.jsonl", "generator={params: 1e6, layers: 2, hidden: 8}"]
    for text, code in (("one", 0), ("two", 2)):
        lines = [json.dumps(trace | {"text": f"{text} {i} {trace['text']}"}) for i in range(3)]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        done = run(*command, "logger=none", "hydra.run.dir=r", folder=tmp_path, code=code)
    assert "inputs.traces" in done.stderr


TINY_FIT = [
    "train", "data.pairs_per_question=2", "data.eval_pairs_per_question=8", "prefix.k=16",
    "trainer.max_epochs=2", "callbacks.training.last.every_n_train_steps=1", "sweep.questions=2",
    "sweep.traces=4", "sweep.resamples=1", "logger=none", "experiment=none",
]  # fmt: skip


def same_judges_and_rows(folder, *names):
    exports = [json.loads((folder / d / "judge" / "judge.json").read_text()) for d in names]
    assert exports[0] == exports[1]
    results = [folder / d / "results.jsonl" for d in names]
    assert rows(results[0]) == rows(results[1])


def test_a_killed_training_resumes_to_the_same_judge_and_rows(tmp_path):
    """Killed in its second epoch, again while the judge is exported, again in the sweep."""
    fit = [*TINY_FIT, f"model.backbone.source={save_tiny_bert(tmp_path / 'tiny')}"]
    run(*fit, "hydra.run.dir=whole", folder=tmp_path)
    cut = tmp_path / "cut"
    with killed_at("last.ckpt", 12):
        run(*fit, "hydra.run.dir=cut", folder=tmp_path)
    with killed_at("weights.safetensors"):
        done = run(*fit, "hydra.run.dir=cut", folder=tmp_path)
    assert not (cut / "judge").exists()
    with killed_at("*.npz", 3):  # after the scores of the report and the first question
        run(*fit, "hydra.run.dir=cut", folder=tmp_path)
    assert len(list((cut / "outcomes").glob("*.npz"))) == 1
    done = run(*fit, "hydra.run.dir=cut", folder=tmp_path)
    assert "the judge of this run is trained" in done.stdout
    same_judges_and_rows(tmp_path, "whole", "cut")


@pytest.mark.slow
def test_a_training_that_gets_sigkill_resumes_to_the_same_judge_and_rows(tmp_path):
    fit = [*TINY_FIT, f"model.backbone.source={save_tiny_bert(tmp_path / 'tiny')}"]
    call(*fit, "hydra.run.dir=whole", folder=tmp_path)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    with started(*fit, "hydra.run.dir=cut", folder=tmp_path, until=last.exists):
        pass
    assert not (tmp_path / "cut" / "judge").exists(), "killed too late to show anything"
    done = call(*fit, "hydra.run.dir=cut", folder=tmp_path)
    assert "resuming from cut/checkpoints/last.ckpt" in done.stdout
    same_judges_and_rows(tmp_path, "whole", "cut")
    done = call(*fit, "hydra.run.dir=cut", folder=tmp_path)
    assert "the judge of this run is trained" in done.stdout


def test_a_model_beside_has_the_same_split_and_is_reported_and_swept(tmp_path):
    """Killed while the second judge is exported; the first is as if it were trained alone."""
    fit = [*TINY_FIT, "model=linear"]
    run(*fit, "sweep=none", "hydra.run.dir=alone", folder=tmp_path)
    both = [*fit, "beside=[linear]", "beside.linear.hidden=3", "hydra.run.dir=r"]
    with killed_at("judge.json", 2):
        run(*both, folder=tmp_path)
    done = run(*both, folder=tmp_path)
    assert done.stdout.startswith("the judge of this run is trained: r/judge")
    records = [
        json.loads((tmp_path / folder / "judge" / "judge.json").read_text())
        for folder in ("alone", "r", "r/beside/linear")
    ]
    assert records[0] == records[1]
    assert records[1]["seen_questions"] == records[2]["seen_questions"]
    assert records[1]["fingerprint"] != records[2]["fingerprint"]
    report = json.loads((tmp_path / "r" / "judge_report.json").read_text())
    assert list(report) == ["linear", "linear linear", "lexical"]
    swept = {row["judge"] for row in rows(tmp_path / "r" / RESULTS)}
    assert swept == {None, "linear", "linear linear"}
    assert (tmp_path / "r" / "beside" / "linear" / "metrics.jsonl").stat().st_size


def test_the_demo_sweeps_a_network_on_fewer_questions_and_says_so(tmp_path):
    """`experiment=demo` with a tiny network: the grid with linear, one point with the network."""
    fit = [*TINY_FIT[:-1], f"model.backbone.source={save_tiny_bert(tmp_path / 'tiny')}"]
    few = ["sweep.networks.questions=1", "trainer.max_steps=2", "hydra.run.dir=r"]
    done = run(*fit, *few, folder=tmp_path)
    swept = rows(tmp_path / "r" / RESULTS)
    assert {row["judge"] for row in swept} == {None, "linear"}
    assert {row["n_questions"] for row in swept} == {2}
    assert {row["prefix_len"] for row in swept if row["judge"]} == {16, 32}
    alone = rows(tmp_path / "r" / "networks" / RESULTS)
    assert [row["policy"] for row in alone if row["judge"]] == ["deepprune"]
    assert {row["n_questions"] for row in alone} == {1}
    assert (tmp_path / "r" / "report.html").stat().st_size > 100_000
    said = done.stdout.splitlines()
    assert len(said) <= 25
    assert said[0].startswith("judge ")
    assert said[4].startswith("lexical ")


@pytest.mark.slow
def test_two_ddp_processes_train_each_judge(tmp_path):
    tiny = ["model=smollm2_135m", f"model.backbone.source={save_tiny_qwen3(tmp_path / 'tiny')}"]
    ddp = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "data.group=2"]
    done = call(
        *TINY_FIT[1:], *tiny, *ddp, "beside=[linear]", "hydra.run.dir=r",
        folder=tmp_path, program=(sys.executable, config_folder().parent / "train.py"),
    )  # fmt: skip
    assert "one by one" not in done.stdout + done.stderr
    for folder in ("r", "r/beside/linear"):
        assert (tmp_path / folder / "judge" / "judge.json").exists()
    assert rows(tmp_path / "r" / RESULTS)


def test_a_group_divides_the_batch_and_needs_a_judge_that_shares(tmp_path):
    fit = [*TINY_FIT, f"model.backbone.source={save_tiny_bert(tmp_path / 'tiny')}"]
    done = run(*fit, "data.group=3", folder=tmp_path, code=2)
    assert "data.group must be auto or a divisor of data.batch_size=16, got 3" in done.stderr
    done = run(*fit, "data.group=8", folder=tmp_path, code=2)
    assert "data.group must be auto or 1 for tiny, got 8: only a causal model" in done.stderr


def test_a_group_is_of_the_judges_that_have_a_use_for_it():
    causal, linear = (
        SimpleNamespace(architecture=SimpleNamespace(shares_heads=shares))
        for shares in (True, False)
    )
    for first, other in ((causal, linear), (linear, causal)):
        plan = SimpleNamespace(group=4, batch_size=16, learner=first, beside={"other": other})
        assert (_group(plan, causal), _group(plan, linear)) == (4, 1)


def test_another_configuration_is_refused_in_the_same_folder(tmp_path):
    run("evaluate", *SMALL, "hydra.run.dir=r", folder=tmp_path)
    done = run("evaluate", *SMALL, "seed=1", "hydra.run.dir=r", folder=tmp_path, code=2)
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
    done = run("evaluate", size, "logger=none", *arguments, folder=tmp_path, code=2)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert all(line.startswith("note: ") for line in lines[:-1]), done.stderr
    assert lines[-1].startswith("error: ")
    assert said in lines[-1]
    assert "results:" not in done.stdout


def test_help_is_quick_and_loads_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['train.py', '--help']\n"
        "from deepprune.cli import train; train()\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    done = call(folder=tmp_path, program=(sys.executable, "-c", code))
    assert "loss        focal | bce" in done.stdout
    assert config_folder().is_dir()


def test_debug_fast_goes_through_everything(tmp_path):
    """One batch is trained, exported, reported and swept."""
    run(
        "train", "experiment=none", "debug=fast", "model=linear", "prefix.k=32", "hydra.run.dir=r",
        folder=tmp_path,
    )  # fmt: skip
    losses = [row for row in rows(tmp_path / "r/metrics.jsonl") if "judge/train_loss" in row]
    assert len(losses) <= 1
    assert (tmp_path / "r/judge/judge.json").exists()
    assert (tmp_path / "r/judge_report.json").exists()
    assert {row["n_questions"] for row in rows(tmp_path / "r/results.jsonl")} == {2}


@pytest.mark.slow
def test_minilm_learns_sixteen_pairs_by_heart(tmp_path):
    run(
        "train", "debug=overfit", "beside=[]", "prefix.k=32", "model.encoder.max_length=96",
        "hydra.run.dir=r",
        folder=tmp_path,
    )  # fmt: skip
    lines = rows(tmp_path / "r/metrics.jsonl")
    losses = [line["judge/train_loss"] for line in lines if "judge/train_loss" in line]
    assert lines[0]["data/train_pairs"] == 16
    assert losses[-1] < 0.01 < losses[0]
    assert len(losses) <= 200


def test_a_judge_is_pushed_with_its_card(tmp_path, monkeypatch):
    """Up to the call of the hub: what is uploaded, and what an error of the hub becomes."""
    from httpx2 import ConnectError
    from huggingface_hub import HfApi, ModelCard

    run(
        "train", "experiment=none", "debug=fast", "sweep=none", "model=linear", "prefix.k=32",
        "hydra.run.dir=r",
        folder=tmp_path,
    )  # fmt: skip
    calls = []
    monkeypatch.setattr(HfApi, "create_repo", lambda hub, repo, **_: calls.append(repo))
    monkeypatch.setattr(
        HfApi, "upload_folder", lambda hub, **given: calls.append(given) or "https://hub/me/it"
    )
    assert "https://hub/me/it" in run("push", "r", "me/it", folder=tmp_path).stdout
    name, given = calls
    assert name == given["repo_id"] == "me/it"
    assert {"judge.json", "README.md"} <= {
        p.name for p in (tmp_path / given["folder_path"]).iterdir()
    }
    card = ModelCard.load(tmp_path / "r/judge/README.md")
    report = json.loads((tmp_path / "r/judge_report.json").read_text())["linear"]["all"]
    (result,) = card.data.eval_results or [None]
    assert result.metric_value == report["auroc_within_unfinished"][0]
    assert "{" not in card.text

    def unreachable(hub, **given):
        raise ConnectError("no route")

    monkeypatch.setattr(HfApi, "upload_folder", unreachable)
    done = run("push", "r", "me/it", folder=tmp_path, code=2)
    assert "me/it was not uploaded: no route; log in with" in done.stderr
    done = run("push", "elsewhere", "me/it", folder=tmp_path, code=2)
    assert "push needs an exported judge, got elsewhere" in done.stderr
