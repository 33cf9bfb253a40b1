"""The examples of docs/extend.md, as a reader would follow them."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

from deepprune.cli import main
from deepprune.judge import loading

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"
BLOCKS = dict(
    re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), flags=re.M | re.S)
)
COMMANDS = [name for name in BLOCKS if "." not in name]
TABLE = "deepprune/judge/loading.py"
FIT = ["trainer.max_steps=4", "data.pairs_per_question=4", "data.eval_pairs_per_question=8"]
SMALL = ["sweep.traces=4", "sweep.questions=3", "sweep.resamples=1", "logger=none"]


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """A folder with the files of the page."""
    for name, text in BLOCKS.items():
        if name not in (*COMMANDS, TABLE):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    monkeypatch.setattr(loading, "KINDS", loading.KINDS | ast.literal_eval(f"{{{BLOCKS[TABLE]}}}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_runs(name, followed):
    """Its parts appear in the results."""
    program, *arguments = shlex.split(BLOCKS[name])
    assert program == "deepprune"
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *SMALL, *(FIT if name == "learner" else ()), "hydra.run.dir=r"])
    assert ended.value.code in (0, None)
    part = {"policy": "stop_long", "judge": "same_length", "learner": "length_gap"}[name]
    assert part in (followed / "r" / "results.jsonl").read_text()
    for module in ("my_policy", "my_judge", "my_learner"):
        sys.modules.pop(module, None)
