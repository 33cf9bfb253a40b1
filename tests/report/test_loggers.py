"""What loggers beside W&B hold, read back from their files."""

import csv
from importlib.util import find_spec

import pytest
from commandline import rows, run

SMALL = [
    "train", "experiment=none", "model=linear", "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "data.pairs_per_question=4", "data.eval_pairs_per_question=8", "prefix.k=32", "sweep.traces=4",
    "sweep.questions=2", "sweep.resamples=1", "hydra.run.dir=r",
]  # fmt: skip


def test_csv_has_the_last_values_of_each_step_and_the_rows_of_the_sweep(tmp_path):
    (tmp_path / "r").mkdir()
    early = '{"step": 0, "judge/train_loss": 99}\n'  # of a training that was killed after it
    (tmp_path / "r" / "metrics.jsonl").write_text(early)
    run(*SMALL, "logger=csv", folder=tmp_path)
    with (tmp_path / "r" / "metrics.csv").open() as file:
        steps = {int(row["step"]): row for row in csv.DictReader(file)}
    assert sorted(steps) == [0, 1, 2, 3]
    last = {
        line["step"]: line["judge/train_loss"]
        for line in rows(tmp_path / "r" / "metrics.jsonl")
        if "judge/train_loss" in line
    }
    assert {n: float(row["judge/train_loss"]) for n, row in steps.items()} == last
    assert last[0] != 99
    with (tmp_path / "r" / "prune_results.csv").open() as file:
        swept = [float(row["accuracy"]) for row in csv.DictReader(file)]
    assert swept == [row["accuracy"] for row in rows(tmp_path / "r" / "results.jsonl")]


def test_tensorboard_has_curves_final_values_tables_and_figures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(*SMALL, "logger=tensorboard", folder=tmp_path)
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("judge/train_loss")] == [0, 1, 2, 3]
    results = rows(tmp_path / "r" / "results.jsonl")
    (saving,) = events.Scalars("prune/headline_net_saving")
    assert saving.value in [pytest.approx(row["net_saving"]) for row in results]
    tags = events.Tags()
    assert "prune/figure" in tags["images"]
    assert "prune/results/text_summary" in tags["tensors"]


def test_mlflow_has_curves_and_final_values(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs pip install 'deepprune[mlflow]'")
    run(*SMALL, "logger=mlflow", folder=tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'r' / 'mlflow.db'}")
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    losses = client.get_metric_history(found.info.run_id, "judge/train_loss")
    assert [loss.step for loss in losses] == [0, 1, 2, 3]
    savings = [row["net_saving"] for row in rows(tmp_path / "r" / "results.jsonl")]
    assert found.data.metrics["prune/headline_net_saving"] in map(pytest.approx, savings)


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_logger_without_its_package_names_the_extra(tmp_path):
    done = run(*SMALL, "logger=mlflow", folder=tmp_path, code=2)
    assert "pip install 'deepprune[mlflow]'" in done.stderr
