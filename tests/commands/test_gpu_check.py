"""``deepprune doctor --gpu`` as it is, on the CPU with a model of two layers."""

import pytest
import torch
from commandline import run

from deepprune.commands.gpu_check import FULL, print_rows
from deepprune.core.errors import InputError
from deepprune.judge.network.backbones import PairClassifier

TINY = FULL._replace(
    config={
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": True,
    },
    steps=4,
    questions=1,
    max_length=256,
)


def test_pairs_that_cannot_be_packed_are_a_failure(capsys, monkeypatch):
    monkeypatch.setattr(PairClassifier, "_packing_problem", lambda self, pairs: "another mask")
    assert print_rows("cpu", TINY, None) == 1
    assert "FAIL  groups against pairs" in capsys.readouterr().out


def test_every_row_is_measured_and_a_failure_is_a_row(capsys):
    def engine(words):
        raise InputError("no memory left for it.")

    assert print_rows("cpu", TINY, engine) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [(line[:4].strip(), line[6:28].strip()) for line in lines]
    assert rows == [
        ("ok", "training, 4 steps"),
        ("ok", "scoring"),
        ("ok", "groups against pairs"),
        ("ok", "bf16 against fp32"),
        ("FAIL", "generation, vLLM"),
    ]
    assert "no memory left for it" in lines[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    said = run("doctor", "--gpu", folder=tmp_path, code=2).stderr
    assert said.startswith("error: doctor --gpu needs a CUDA device, and torch ")
    assert said.count("\n") == 1
