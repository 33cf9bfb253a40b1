"""Text of ``--help``: usage, groups and options, read from `conf/` itself."""

from __future__ import annotations

import re
from pathlib import Path

TEMPLATE = """{title}

{ways}

Groups, each chosen with GROUP=NAME (the default first):
{groups}

Options:
{options}
More: --cfg job shows every option with its value, --hydra-help Hydra's own flags.
"""

WAYS = """\
  {usage} [OPTION=VALUE ...]                 run; the results are in runs/
  {usage} -m prefix.k=32,64 seed=0,1         one run for each combination, and a table of all
  {usage} hydra.run.dir=runs/DIR [the same]  resume the interrupted run there"""
WAYS_TO_COLLECT = """\
  {usage} [OPTION=VALUE ...]                 run; the traces are in runs/DIR/traces
  {usage} hydra.run.dir=runs/DIR [the same]  resume the interrupted run there"""
WAYS_TO_REPORT = """\
  {usage} JUDGE ... traces=A,B [OPTION=VALUE ...]  a JUDGE is the folder of an export or of its run
  {usage} [the same] hydra.run.dir=runs/DIR        resume the interrupted run there"""
WAYS_TO_PRUNE = """\
  {usage} "QUESTION" [OPTION=VALUE ...]      one question; - for standard input, @FILE for a file
  {usage} questions=NAME [OPTION=VALUE ...]  a set of them
  {usage} "QUESTION" point=runs/DIR          with the best point of a sweep (point.row=N: row N)
  {usage} hydra.run.dir=runs/DIR [the same]  resume the interrupted run there"""

_WAYS_OF = {
    "judge_report": WAYS_TO_REPORT,
    "collect": WAYS_TO_COLLECT,
    "prune": WAYS_TO_PRUNE,
}


def help_text(application: str, usage: str, config_folder: Path) -> str:
    """Return the help of an application."""
    text = (config_folder / f"{application}.yaml").read_text()
    title, defaults, options = re.split(r"^defaults:\n|^\n(?=\w+:)", text, maxsplit=2, flags=re.M)
    chosen = re.findall(r"^  - (\w+): (.+)$", defaults, flags=re.M)
    groups = []
    for group, default in chosen:
        default = default.partition(" #")[0].strip()
        names = [n.strip() for n in default.strip("[]").split(",")]
        there = sorted(p.stem for p in (config_folder / group).glob("*.yaml"))
        if group == "engine" and application != "prune":  # which replays as well as generates
            there = [n for n in there if (n == "replay") == (default == "replay")]
        if group == "experiment":  # those whose head shows this command
            called = {"train": "train.py", "evaluate": "deepprune evaluate"}[application]
            files = {name: config_folder / group / f"{name}.yaml" for name in there}
            there = [name for name, file in files.items() if called in file.read_text()]
        others = [n for n in there if n not in names]
        first = f"[{', '.join(names)}]" if default.startswith("[") else default
        groups.append(f"  {group:<11} {' | '.join([first, *others])}")
    return TEMPLATE.format(
        title=title.strip().lstrip("# "),
        ways=_WAYS_OF.get(application, WAYS).format(usage=usage),
        groups="\n".join(groups),
        options="".join(f"  {line}\n" for line in options.split("\nhydra:")[0].splitlines()),
    )
