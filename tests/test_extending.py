"""The examples of docs/extend.md, as a reader would follow them."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from deepprune.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"
BLOCKS = dict(
    re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), flags=re.M | re.S)
)
COMMANDS = [name for name in BLOCKS if "." not in name]
SMALL = ["sweep.traces=4", "sweep.questions=3", "sweep.resamples=1", "logger=none"]


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """A folder with the files of the page."""
    for name, text in BLOCKS.items():
        if name not in COMMANDS:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_runs(name, followed):
    """Its parts appear in the results."""
    program, *arguments = shlex.split(BLOCKS[name])
    assert program == "deepprune"
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *SMALL, "hydra.run.dir=r"])
    assert ended.value.code in (0, None)
    assert {"policy": "stop_long", "judge": "same_length"}[name] in (
        followed / "r" / "results.jsonl"
    ).read_text()
    for module in ("my_policy", "my_judge"):
        sys.modules.pop(module, None)
