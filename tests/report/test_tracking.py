"""What W&B gets, read back from its offline files as ``wandb leet`` shows it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commandline import call, run, started
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_stub import WandbStub

from deepprune.cli import composed, config_folder
from deepprune.config.agent import agent_overrides
from deepprune.config.judges import export_hash
from deepprune.config.point import point_overrides
from deepprune.config.schemas import check_ranges
from deepprune.report.tracking import MAX_ROWS, WandbTracker, start_run

LEGAL = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*(/[_a-zA-Z][_a-zA-Z0-9]*)?$")
TINY = [
    "model=linear", "trainer.max_steps=2", "data.pairs_per_question=4", "prefix.k=32",
    "experiment=none",
    "data.eval_pairs_per_question=8", "sweep.traces=4", "sweep.questions=4", "sweep.resamples=1",
    "sweep.margin=0.9",
]  # fmt: skip


def shown(folder):
    """Configuration, summary and tags of the last offline run of a run folder."""
    (*_, part) = sorted((folder / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", part]
    return json.loads(subprocess.check_output(command))


def records(folder, kind):
    """All records of a kind of the last offline run."""
    (*_, part) = sorted((folder / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", part]
    lines = map(json.loads, subprocess.check_output(command).splitlines())
    return [line[kind] for line in lines if line["type"] == kind]


def keys(node):
    """All names of a configuration."""
    for key, value in node.items():
        yield key
        if isinstance(value, dict):
            yield from keys(value)


def test_runs_of_an_ablation_have_the_same_keys_with_the_values_of_their_files(tmp_path):
    run("train", "-m", *TINY, "loss=bce,focal", "hydra.sweep.dir=m", folder=tmp_path)
    one, two = (shown(tmp_path / "m" / job) for job in "01")
    assert one["summary"].keys() == two["summary"].keys()
    assert all(LEGAL.match(key) for key in one["summary"])
    assert [each["config"]["loss"] for each in (one, two)] == ["bce", "focal"]
    assert one["config"].keys() == two["config"].keys()
    assert all("." not in key and not key.startswith("_") for key in keys(one["config"]))
    assert one["tags"] == [*TINY, "loss=bce"]
    summary = one["summary"]
    report = json.loads((tmp_path / "m/0/judge_report.json").read_text())
    value, low, high = report["linear"]["all"]["auroc_within_unfinished"]
    for key in ("judge/test_auroc_within_unfinished", "judge_test_auroc_within_unfinished"):
        assert [summary[f"{key}{end}"] for end in ("", "_low", "_high")] == [value, low, high]
    rows = [json.loads(line) for line in (tmp_path / "m/0/results.jsonl").read_text().splitlines()]
    headline = {name: summary[f"prune/headline_{name}"] for name in ("accuracy", "net_saving")}
    assert headline in [{name: row[name] for name in headline} for row in rows]
    best = json.loads((tmp_path / "m/0/chosen.jsonl").read_text().splitlines()[0])
    for name, column in (("accuracy",) * 2, ("net_saving",) * 2, ("prefix", "prefix_len")):
        assert summary[f"prune/best_{name}"] == best[column]
    assert summary["prune/results"]["nrows"] == len(rows)
    assert summary["prune/by_question"]["nrows"] == rows[0]["n_questions"] == 4
    assert summary["judge/scores"]["nrows"] == 20
    artifacts = json.loads((tmp_path / "m/0/artifacts.json").read_text())
    judge = export_hash(tmp_path / "m/0/judge")
    assert artifacts[f"judge-{judge[:12]}"] == {"type": "model", "sha256": judge, "role": "output"}
    assert sorted(each["type"] for each in artifacts.values()) == ["dataset", "model", "results"]
    logged = {
        a["name"]: a
        for a in records(tmp_path / "m/0", "artifact")
        if a["type"] in ("dataset", "model", "results")  # a table is an artifact as well
    }
    assert logged.keys() == {name for name, a in artifacts.items() if a["role"] == "output"}
    files = logged[f"judge-{judge[:12]}"]["manifest"]["contents"]
    assert str(tmp_path / "m/0/judge/judge.json") in [file["local_path"] for file in files]
    overrides = point_overrides([f"point={tmp_path / 'm/0'}", "seed=3"])
    assert f'judge.path="{tmp_path}/m/0/judge"' in overrides
    live = composed("prune", overrides)
    (policy,) = live.pruning.values()
    assert [policy.threshold, policy.prefix.k] == [best["threshold"], best["prefix_len"]]


def test_a_start_that_was_killed_before_its_run_record_is_removed(tmp_path):
    """``wandb sync`` would refuse all folders that are given with it."""
    (tmp_path / "wandb_id").write_text("abc12345")
    fragment = tmp_path / "wandb" / "offline-run-20260101_000000-abc12345"
    fragment.mkdir(parents=True)
    (fragment / "run-abc12345.wandb").write_bytes(b":W&B")
    for _ in range(2):
        start_run(tmp_path, {"loss": "bce"}, project="p").finish(0)
    assert not fragment.exists()
    kept = list((tmp_path / "wandb").glob("offline-run-*-abc12345"))
    assert kept
    assert shown(tmp_path)["run_id"] == "abc12345"


@pytest.mark.slow
def test_a_run_that_was_killed_three_times_is_synced_as_one_history(tmp_path):
    """In its first second, in training and in the sweep; the last row of a step counts."""
    folder = tmp_path / "r"
    command = [
        "train", *TINY[:1], *TINY[2:], "trainer.max_epochs=3", "trainer.log_every_n_steps=1",
        "callbacks.training.last.every_n_train_steps=2", "distributed.n=1", "hydra.run.dir=r",
    ]  # fmt: skip
    for pattern in ("wandb/offline-run-*", "checkpoints/last.ckpt", "outcomes/*.npz"):
        with started(*command, folder=tmp_path, until=lambda p=pattern: [*folder.glob(p)]):
            pass
    call(*command, folder=tmp_path)
    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert 2 <= len(parts) <= 4  # a start that left no record of a run is removed
    with WandbStub() as stub:
        done = stub.sync(parts, tmp_path)
    assert done.returncode == 0, done.stderr
    ((name, rows),) = stub.runs.items()
    assert name == (folder / "wandb_id").read_text()
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    lines = [*map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]
    curves = [
        {row[step]: row["judge/train_loss"] for row in found if "judge/train_loss" in row}
        for found, step in ((rows, "trainer/global_step"), (lines, "step"))
    ]
    assert curves[0] == pytest.approx({step: curves[1][step] for step in curves[0]})
    assert len(curves[1]) - len(curves[0]) <= 8  # of the last second before a kill
    assert any("prune_headline_net_saving" in row for row in rows)


def test_an_online_run_uses_what_it_reads_and_refers_to_its_traces(tmp_path):
    class Online:
        offline = False

        def use_artifact(self, artifact):
            self.used = artifact

    online = Online()
    (tmp_path / "part.parquet").write_text("traces")
    WandbTracker(online, tmp_path).artifact("dataset", [tmp_path], "ab" * 32, is_input=True)
    assert (online.used.name, online.used.type) == ("traces-abababababab", "dataset")
    (entry,) = online.used.manifest.entries.values()
    assert entry.ref == (tmp_path / "part.parquet").as_uri()
    assert online.used.metadata == {"sha256": "ab" * 32}


def test_a_column_has_one_type_and_a_long_table_is_cut(tmp_path, capsys):
    class Logged(dict):
        def log(self, values):
            self.update(values)

    logged = Logged()
    rows = [{"n": 1, "x": [1]}, {"n": 0.5, "x": "a", "y": True}] * (MAX_ROWS // 2 + 1)
    WandbTracker(logged, tmp_path).table("t/rows", rows)
    table = logged["t/rows"]
    assert table.columns == ["n", "x", "y"]
    assert table.data[:2] == [[1, "[1]", None], [0.5, "a", True]]
    assert len(table.data) == MAX_ROWS
    assert "t/rows is cut" in capsys.readouterr().out


@pytest.mark.parametrize("file", sorted((config_folder() / "wandb").glob("*.yaml")), ids=str)
def test_what_an_agent_starts_is_composed(file, tmp_path, monkeypatch):
    """Each value of each parameter, as the agent writes it on the command line and in its file."""
    sweep = yaml.safe_load(file.read_text())
    for name, parameter in sweep["parameters"].items():
        for value in parameter.get("values") or [parameter["min"], parameter["max"]]:
            given = {name: {"value": value}}
            arguments = _as_agent(sweep, given, tmp_path, monkeypatch)
            overrides = agent_overrides(arguments)
            assert "hydra.run.dir=runs/sweep-s1/r1" in overrides
            config = composed("train", overrides)
            check_ranges(config)
            if "." in name:
                section, _, option = name.partition(".")
                found = config[section]
                for part in option.split("."):
                    found = found[part]
                assert found == value


@pytest.mark.parametrize(
    "value",
    [None, "a,b", "a=b c", 'it\'s "so"', [1, None], "\\pi \\", {"k": "x y"}, 1e-5, True],
)
def test_a_typed_value_survives(value, tmp_path, monkeypatch):
    sweep = {"program": "train.py", "command": ["${args_no_hyphens}"]}
    arguments = _as_agent(sweep, {"+mine.x": {"value": value}}, tmp_path, monkeypatch)
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose(overrides=[o for o in agent_overrides(arguments) if "mine" in o])
    assert config.mine.x == value


def _as_agent(sweep, given, folder, monkeypatch):
    """Return the arguments that the agent gives, and set what it sets."""
    command = {"args": given, "program": sweep["program"], "run_id": "r1"}
    words = create_sweep_command_args(command)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"wandb_version": 1, **given}))
    for name, text in (("SWEEP_ID", "s1"), ("RUN_ID", "r1"), ("SWEEP_PARAM_PATH", str(path))):
        monkeypatch.setenv(f"WANDB_{name}", text)
    arguments = []
    for part in create_sweep_command(sweep["command"]):
        if part in ("${env}", "${interpreter}", "${program}"):
            continue
        arguments += words["args_no_hyphens"] if part == "${args_no_hyphens}" else [part]
    return arguments


def test_a_multirun_is_refused_under_an_agent(tmp_path):
    agent = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1"}
    done = run("train", "-m", "loss=bce,focal", folder=tmp_path, code=2, **agent)
    assert "leave -m out of the sweep's command" in done.stderr
    assert not list(Path(tmp_path).iterdir())
