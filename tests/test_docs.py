"""Every command that README and docs show is one that its program accepts.

Configurations are composed and their ranges checked; nothing runs. Those of docs/extend.md run in
test_extending.py, those of the demo and of the guides' main path in .ci/run.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest
from commandline import run

from deepprune.cli import composed
from deepprune.commands import doctor, report, traces
from deepprune.config.schemas import check_ranges

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import outputs  # noqa: E402

PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.stem != "extend")]


def commands(page):
    """Yield the words of each command in a shell block, without prompts, pipes and comments."""
    variables = {}
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.match(r'(\w+)="(.*)"$', line):
                variables[assigned[1]] = assigned[2]
                continue
            line = re.sub(r"(?<!')\$(\w+)", lambda m: variables.get(m[1], m[0]), line)
            words = shlex.split(line, comments=True)
            if words[:1] == ["deepprune"]:
                yield words[1:]
            elif words[:2] == ["python", "train.py"]:
                yield ["train", *words[2:]]


COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)}"[:90])
    for page in PAGES
    for words in commands(page)
]


def first(word):
    """Return ``loss=bce`` for ``loss=bce,focal``: the first job of a multirun."""
    return re.sub(r"^([\w./@+~]+=[^\[{('\",]+),.*", r"\1", word)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_documented_command_is_accepted(words, tmp_path):
    name, *rest = words
    if name == "traces":
        traces._parser().parse_args(rest)
    elif name == "report":
        report._parser().parse_args(rest)
    elif name == "push":
        assert len(rest) == 2
    elif name == "doctor":
        check_ranges(
            composed(
                "prune", ["engine=vllm", *doctor._parser().parse_intermixed_args(rest).options]
            )
        )
    elif name in ("train", "evaluate"):
        check_ranges(composed(name, [first(word) for word in rest if word != "-m"]))
    else:
        run(name, *rest, "--cfg", "job", folder=tmp_path)


def test_outputs_are_those_of_their_commands(tmp_path):
    page = "x\n<!-- output of: echo 1; echo 2 -->\n```\nold\n```\ny\n"
    assert outputs.regenerated(page, tmp_path) == page.replace("old", "1\n2")
    shown = [
        found[2] for page in outputs.PAGES for found in outputs.BLOCK.finditer(page.read_text())
    ]
    assert {words.split()[0] for words in shown} == {"python", "deepprune"}
