"""What commands import before they start: slow packages are imported by what uses them."""

import subprocess
import sys

import pytest

HEAVY = {
    "altair", "matplotlib", "numpy", "pandas", "peft", "pytorch_lightning", "scipy.optimize",
    "scipy.special", "scipy.stats", "sklearn", "torch", "torchmetrics", "transformers",
    "vl_convert", "wandb",
}  # fmt: skip
PLAIN = {"numpy", "scipy.special"}
IMPORTED = """
import sys
from deepprune.cli import _plan, composed

name, *words = sys.argv[1:]
config = composed(name, words)
print(*sys.modules)
_plan(name, config)
print(*sys.modules)
"""


@pytest.mark.parametrize(
    ("name", "words", "may_load"),
    [
        ("evaluate", [], PLAIN),
        ("prune", ["engine=openai", "engine.model=m", "question=q"], PLAIN),
        ("collect", [], PLAIN),
        ("train", ["model=linear"], PLAIN | {"torch"}),  # a loss and a sampler are torch's classes
    ],
)
def test_a_command_loads_only_what_it_needs(name, words, may_load, tmp_path):
    command = [sys.executable, "-c", IMPORTED, name, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    composed, planned = (set(line.split()) for line in done.stdout.splitlines()[-2:])
    assert not HEAVY & composed
    assert HEAVY & planned <= may_load
