"""`experiment=paper_qwen3_4b` as it is, on a model of the same architecture with two layers."""

import json

import pytest
from commandline import run
from tiny_models import save_tiny_qwen3_lm

from deepprune.core.errors import InputError
from deepprune.judge.loading import load_judge

EXPERIMENT = ["experiment=paper_qwen3_4b", "traces=pool"]
SMALL = [
    "model.backbone.source=tiny", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "trainer.max_steps=2", "data.pairs_per_question=2", "data.eval_pairs_per_question=1",
    "data.batch_size=2", "model.encoder.max_length=400", "prefix.k=1", "sweep=none",
    "logger=none", "hydra.run.dir=r",
]  # fmt: skip


def test_the_papers_recipe_trains_exports_and_scores(tmp_path, monkeypatch):
    save_tiny_qwen3_lm(tmp_path / "tiny")
    run("train", *EXPERIMENT, *SMALL, folder=tmp_path)
    record = json.loads((tmp_path / "r" / "judge" / "judge.json").read_text())
    assert record["settings"]["backbone"]["head"] == "generative"
    assert record["settings"]["backbone"]["lora"]["r"] == 16
    assert record["settings"]["encoder"]["texts"][0].startswith("user: Below are")
    assert record["training"]["steps"] == 2
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    facts = {k: v for line in logged for k, v in line.items() if k.startswith("data/train_")}
    assert set(facts) == {f"data/train_{name}" for name in ("pairs", "truncated")}
    monkeypatch.chdir(tmp_path)
    assert load_judge("r/judge").provenance.seen_questions
    with pytest.raises(InputError, match=r"need the backbone 'tiny'.* at 'minilm'"):
        load_judge("r/judge", backbone="minilm")
