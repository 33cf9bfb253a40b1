"""Every command that README and docs show is accepted by its program, and runs.

A comment before a block says what is not run, and why: ``<!-- not run: needs a GPU -->``, or of the
lines with these words ``<!-- not run (engine=vllm): needs a GPU -->``. Lines that are marked with
``slow`` are run by slow tests. Trainings and sweeps are small. Those of docs/extend.md are run in
test_extending.py.
"""

import gzip
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet
import pytest
from commandline import run

from deepprune.cli import composed
from deepprune.commands import doctor, report, traces
from deepprune.config.schemas import check_ranges
from deepprune.traces import open_traces

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import outputs  # noqa: E402

PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.stem != "extend")]


FEW = ["sweep.questions=3", "sweep.resamples=1", "logger=none"]
FIT = ["trainer.max_steps=4", "data.pairs_per_question=4", "data.eval_pairs_per_question=8"]
MARK = re.compile(r"<!-- (not run|slow)(?: \((.+?)\))?: .+? -->\n")


class Line(NamedTuple):
    """A line of a shell block, without comment and prompt.

    Attributes:
        text: As a shell reads it.
        mark: ``not run``, ``slow`` or empty.
    """

    text: str
    mark: str

    @property
    def words(self):
        """The words after ``deepprune``; none of another program."""
        words = shlex.split(self.text, comments=True)
        words = ["deepprune", "train", *words[2:]] if words[:2] == ["python", "train.py"] else words
        return words[1:] if words[0] == "deepprune" else []


def lines(page):
    """Yield the lines of a page's shell blocks, with their variables put in."""
    variables = {}
    marks = "(?:<!--[^\n]*-->\n)*"
    for head, block in re.findall(rf"^({marks})```bash\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.match(r'(\w+)="(.*)"$', line):
                variables[assigned[1]] = assigned[2]
            elif not line.startswith("#"):
                line = re.sub(r"(?<!')\$(\w+)", lambda m: variables.get(m[1], m[0]), line)
                found = [m[1] for m in MARK.finditer(head) if not m[2] or m[2] in line]
                yield Line(line, min(found, default=""))


COMMANDS = [
    pytest.param(line.words, id=f"{page.stem}: {' '.join(line.words)}"[:90])
    for page in PAGES
    for line in lines(page)
    if line.words
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


def smaller(words):
    """Add what makes a command quick."""
    name, *rest = words
    if name == "train" and "-m" in rest:
        return [*words, *FIT, "model=linear", "sweep=none", "logger=none"]
    if name == "train":
        return [*words, *FIT, *FEW]
    if name == "evaluate":
        return [*words, *FEW]
    if name == "judge-report":
        return [*words, "data.eval_pairs_per_question=8", "logger=none"]
    if name == "prune":
        is_played = not any(word.startswith("engine=") for word in rest)
        return [*words, "logger=none", *["engine.seconds_per_token=0"] * is_played]
    return words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that has what the pages name: runs, stores and files to import."""
    folder = tmp_path_factory.mktemp("docs")
    small = ["train", "experiment=none", "model=linear", *FIT]
    run(*small, *FEW, "hydra.run.dir=runs/DIR", folder=folder)
    many = ["loss=bce,focal", "sweep=none", "logger=none", "hydra.sweep.dir=runs/SWEEP"]
    run("train", "-m", *small[1:], *many, folder=folder)
    (folder / "runs" / "A").symlink_to("SWEEP/0")
    (folder / "runs" / "B").symlink_to("SWEEP/1")
    for name in "XABC":
        (folder / name).symlink_to(open_traces("pool").path)
    texts = [f"The answer is {number}." for number in (4, 4, 5)]
    rows = [{"question": "What is 2 + 2?", "gold": "4", "text": text} for text in texts]
    for name, some in {"output-rs0": rows[:2], "output-rs1": rows[2:], "runs": rows}.items():
        written = "".join(f"{json.dumps(row)}\n" for row in some)
        (folder / f"{name}.jsonl").write_text(written)
    (folder / "runs.jsonl.gz").write_bytes(gzip.compress((folder / "runs.jsonl").read_bytes()))
    table = {"prompt": [rows[0]["question"]], "answer": ["4"], "response": [texts]}
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "runs.parquet")
    return folder


def run_lines(page, mark, folder):
    latest = folder / "runs" / "latest"
    latest.unlink()
    latest.symlink_to("DIR")
    for line in lines(page):
        if line.mark != mark:
            continue
        if line.words:
            run(*smaller(line.words), folder=folder)
        else:
            subprocess.run(["bash", "-ec", line.text], cwd=folder, check=True, timeout=240)


def with_lines(mark):
    return [
        pytest.param(page, id=page.stem)
        for page in PAGES
        if any(line.mark == mark for line in lines(page))
    ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", with_lines(""))
def test_the_commands_of_a_page_run(page, place):
    run_lines(page, "", place)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", with_lines("slow"))
def test_the_slow_commands_of_a_page_run(page, place):
    run_lines(page, "slow", place)


def test_outputs_are_those_of_their_commands(tmp_path):
    page = "x\n<!-- output of: echo 1; echo 2 -->\n```\nold\n```\ny\n"
    assert outputs.regenerated(page, tmp_path) == page.replace("old", "1\n2")
    shown = [
        found[2] for page in outputs.PAGES for found in outputs.BLOCK.finditer(page.read_text())
    ]
    assert {words.split()[0] for words in shown} == {"python", "deepprune"}
