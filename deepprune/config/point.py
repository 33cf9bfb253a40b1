"""``deepprune prune point=runs/DIR``: a point of a sweep, as overrides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepprune.config.agent import hydra_value
from deepprune.config.judges import export_folder, run_of
from deepprune.config.options_table import TABLE
from deepprune.core.errors import InputError
from deepprune.evaluation.best import CHOSEN
from deepprune.evaluation.metrics import CONSENSUS
from deepprune.evaluation.outcomes import RESULTS
from deepprune.judge.base import UNKNOWN
from deepprune.judge.saved import read_record

_CHOICES = {
    "lexical": "lexical",
    "length only": "length_only",
    "question only (labels)": "question_only",
    "sentence-embedding": "sentence_embedding",
    "oracle": "oracle",
    "coin": "coin",
}
"""Judges without settings: the name in the rows, and the entry of ``sweep.judges``."""

POINT, ROW = "point", "point.row"


def point_overrides(words: Sequence[str]) -> list[str]:
    """Replace ``point=DIR`` by the policy, its settings, prefix, N and judge of a point.

    ``DIR`` is the folder of a run with a sweep. Its best point is taken (``chosen.jsonl``), or with
    ``point.row=N`` the line N of its ``results.jsonl``, from 1. What else the user gives wins.

    Raises:
        InputError: If there is no such point, or a part of it is no choice of `conf/`.
    """
    given = dict(word.split("=", 1) for word in words if word.startswith((f"{POINT}=", f"{ROW}=")))
    others = [word for word in words if not word.startswith((f"{POINT}=", f"{ROW}="))]
    if not given:
        return others
    if POINT not in given:
        raise InputError("point.row names a line of a sweep's results.jsonl: give point=runs/DIR.")
    folder = Path(given[POINT])
    row = _row(folder, given.get(ROW))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    is_judge_given = any(word.startswith("judge=") for word in others)
    judge = [] if is_judge_given else _judge(row["judge"], folder, config)
    return [*_policy(row, config), *judge, *others]


def _row(folder: Path, number: str | None) -> dict[str, Any]:
    """Read the chosen row, or that of a line."""
    path = folder / (CHOSEN if number is None else RESULTS)
    if not path.is_file():
        raise InputError(
            f"point must be the folder of a run with a finished sweep, got {folder} without "
            f"{path.name}: give that of deepprune evaluate or train."
        )
    rows = path.read_text(encoding="utf-8").splitlines()
    if number is None and not rows:
        raise InputError(
            f"the sweep of {folder} has no best point: none came within sweep.margin of cons@N, or "
            "it had too few questions; name a line of its results.jsonl with point.row=N."
        )
    if number is not None and not (number.isdecimal() and 1 <= int(number) <= len(rows)):
        raise InputError(f"point.row must be a line of {path}, 1 to {len(rows)}, got {number}.")
    row: dict[str, Any] = json.loads(rows[0 if number is None else int(number) - 1])
    return row


def _policy(row: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    name = row["policy"]
    if name == CONSENSUS:
        n = row["n_traces"]
        return [f"pruning={name}", f"+pruning.{name}.k={row['k']}", f"prune.traces={n}"]
    if (key := f"pruning/{name}") not in TABLE:
        raise InputError(
            f"the policy of this point is {name!r}, which is none of conf/pruning: configure it "
            "with pruning=NAME instead of point."
        )
    fields = [f for f in TABLE[key][1] if f in row]
    chosen = [f"pruning={name}", *(f"pruning.{name}.{f}={hydra_value(row[f])}" for f in fields)]
    if "prefix_kind" in row:
        rule = {**config["prefix"], "k": row["prefix_len"]}
        options = TABLE[f"prefix/{row['prefix_kind']}"][1]
        chosen.append(f"prefix={row['prefix_kind']}")
        chosen += [f"prefix.{name}={hydra_value(rule[name])}" for name in options]
    return [*chosen, f"prune.traces={row['n_traces']}"]


def _judge(name: str | None, folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the overrides of the judge with this name in the rows; none if there is none."""
    if name is None:
        return []
    node, entries = config.get("judge", {}), config["sweep"]["judges"]
    known = {target: key for key, (target, _) in TABLE.items() if key.startswith("judge/")}
    key, choice = known.get(node.get("_target_")), _CHOICES.get(name)
    if choice in entries and f"judge/{choice}" in TABLE:
        return [f"judge={choice}"]
    if choice is None:
        paths = [e for e in (node.get("path"), *entries) if e and e not in _CHOICES.values()]
        if gone := [path for path in paths if export_folder(path) is None]:
            raise InputError(
                f"the judge of this point is {name!r}, and {gone[0]} of its sweep is not there: "
                "give judge=NAME, or judge=trained judge.path=FOLDER, beside point."
            )
        for found, export in _exports(folder, config, node):
            if found == name:
                return ["judge=trained", f"judge.path={hydra_value(str(export))}"]
    named = {"judge/trained", *(f"judge/{each}" for each in _CHOICES.values())}
    is_own = key not in named if choice is None else key == f"judge/{choice}"
    if key is None or not is_own:
        raise InputError(
            f"the judge of this point is {name!r}, which is none of conf/judge: give judge=NAME "
            "beside point."
        )
    values = dict(node)
    if (band := folder / "band.json").exists():  # that a cascade has found on the sweep's traces
        values |= {**json.loads(band.read_text()), "share": None}
    return [f"judge={key.partition('/')[2]}"] + [
        f"judge.{option}={hydra_value(values[option])}" for option in TABLE[key][1]
    ]


def _exports(
    folder: Path, config: Mapping[str, Any], node: Mapping[str, Any]
) -> Iterator[tuple[str, Path]]:
    """Yield trained judges by their names in the rows, as `judges.with_further` gives them."""
    entries = [str(folder / "beside" / name) for name in config.get("beside", {})]
    entries = [str(folder), *entries] if "model" in config else [node.get("path") or ""]
    taken: set[str] = set()
    for entry in (*entries, *config["sweep"]["judges"]):
        if (export := export_folder(entry)) is not None:
            record = read_record(export)
            name = record.name + UNKNOWN * (not record.seen_questions)
            names = (name, f"{name} {run_of(Path(entry))}", f"{name} {entry}")
            free = next(n for n in names if n not in taken)
            taken.add(free)
            yield free, export
