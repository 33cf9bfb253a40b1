"""The commands of docs/extend.md with the files of ``examples/``, and the notebook there."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from deepprune.cli import main
from deepprune.judge import loading

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text()
COMMANDS = re.findall(r"^deepprune .*", PAGE, flags=re.M)
TABLE = re.search(r'^```python title="deepprune/judge/loading.py"\n(.*?)^```', PAGE, re.M | re.S)
FIT = [
    "experiment=none", "trainer.max_steps=4", "data.pairs_per_question=4",
    "data.eval_pairs_per_question=8",
]  # fmt: skip
SMALL = ["sweep.traces=4", "sweep.questions=3", "sweep.resamples=1", "logger=none"]
PARTS = [
    ("stop_long", "results.jsonl"),
    ("same_length", "results.jsonl"),
    ("one_per_question", "config.json"),
    ("cons", "rows.csv"),
    ("length_gap", "results.jsonl"),
    ("dice.Dice", "config.json"),
]


@pytest.mark.parametrize(("command", "part"), list(zip(COMMANDS, PARTS, strict=True)))
def test_an_example_runs(command, part, tmp_path, monkeypatch):
    """Its parts appear in the results."""
    lines = ast.literal_eval(f"{{{TABLE[1]}}}")
    monkeypatch.setattr(loading, "KINDS", loading.KINDS | lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    _, name, *overrides = shlex.split(command)
    small = ["logger=none"] if name == "prune" else [*SMALL, *(FIT if name == "train" else ())]
    with pytest.raises(SystemExit) as ended:
        main([name, *overrides, *small, "hydra.run.dir=r"])
    assert ended.value.code in (0, None)
    word, file = part
    assert word in (tmp_path / "r" / file).read_text()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert (tmp_path / "runs" / "quickstart-sweep" / "accuracy_tokens.png").exists()
    assert "race None" in capsys.readouterr().out
