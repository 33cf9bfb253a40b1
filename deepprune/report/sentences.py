"""Sentences and lines on the findings of runs and on how they were made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from deepprune.core.files import read_json
from deepprune.core.provenance import CONFIG, PROVENANCE, flat
from deepprune.core.statistics import Estimate
from deepprune.evaluation.best import HALVES, best_number, read_best
from deepprune.evaluation.outcomes import Row, read_rows
from deepprune.judge.measure.comparison import HEADLINE, ComparedRow, RunRecord, is_clear_of_0
from deepprune.report.labels import labels
from deepprune.report.tables import finding, percent, varied_options


def run_sentences(run: RunRecord) -> list[str]:
    """Say in sentences what a run has found: its headline, its judge and its best point."""
    rows = read_rows(run.folder) if run.folder else []
    said = [sentence for sentence in [finding([rows])] if sentence]
    if (auroc := run.metrics.get(HEADLINE)) is not None:
        above = Estimate(*(v - 0.5 for v in auroc))
        level = "clear of chance (.5)" if is_clear_of_0(above) else "not clear of chance (.5)"
        judge = provenance(run).get("choices", {}).get("model") or "the judge"
        said.append(
            f"Among pairs of unfinished traces of one question {judge} has an AUROC of "
            f"{auroc.value:.3f} [{auroc.low:.3f}, {auroc.high:.3f}]: {level}."
        )
    if run.folder and (best := read_best(run.folder)):
        found_best = best_sentences(best, rows)
        said += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in found_best]
    if run.status != "ok":
        said.insert(0, f"The run is {run.status}. {run.reason}".strip())
    return said


def best_sentences(best: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Say which point is the best, and what it saves on questions that did not choose it.

    Args:
        best: Columns of the point, see `best.read_best`; empty for no sentence.
        rows: The rows of its sweep.
    """
    if not best:
        return []
    is_mean = "net_saving_halves" in best
    if is_mean:
        choosing = f"Over {HALVES} random halves of the questions, the point that one half chooses"
    else:
        choosing = f"Chosen on {best['n_questions_choosing']:.0f} questions, it"

    def estimate(name: str) -> Estimate:
        name += "_halves" * is_mean
        return Estimate(*(best[f"{name}{end}"] for end in ("", "_low", "_high")))

    return [
        f"best point: {labels(rows)[best_number(best, rows)]}. {choosing} saves "
        f"{percent(estimate('net_saving'))} % net on the rest, "
        f"{percent(estimate('accuracy_vs_cons_n'), sign=True)} points from cons@N"
    ]


def comparison_sentences(rows: Sequence[ComparedRow]) -> list[str]:
    """Say in sentences which row is best, and how many differ clearly from the baseline."""
    measured = [row for row in rows if HEADLINE in row.metrics]
    n_runs = sum(len(row.runs) for row in rows)
    missing = [run for row in rows for run in row.missing]
    said = [f"{n_runs} finished runs in {len(rows)} rows."]
    if missing:
        states = ", ".join(dict.fromkeys(run.status for run in missing))
        said[0] = f"{said[0][:-1]}; {len(missing)} more are {states}."
    if measured:
        best = max(measured, key=lambda row: row.metrics[HEADLINE].value)
        value, low, high = best.metrics[HEADLINE]
        name = ", ".join(f"{n}={best.overrides.get(n, '')}" for n in varied_options(rows))
        said.append(
            f"The highest AUROC within questions is {value:.3f} [{low:.3f}, {high:.3f}]"
            + (f", of {name}." if name else ".")
        )
    differences = [row.differences[HEADLINE] for row in rows if HEADLINE in row.differences]
    if differences:
        n_clear = sum(map(is_clear_of_0, differences))
        said.append(
            f"{n_clear or 'None'} of {len(differences)} differences to the baseline "
            f"{'is' if n_clear in (0, 1) else 'are'} clear of 0."
        )
    return said


def provenance(run: RunRecord) -> dict[str, Any]:
    """Read how a run was made, nothing where its folder does not tell."""
    return read_json(run.folder / PROVENANCE) if run.folder else {}


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return choices and options that differ between runs, with each run's value.

    An option that some runs do not have follows from a choice, and is left out, as are names that
    start with ``_``, and options that were not chosen and have the same values as one before, as
    those that are ``${prefix.k}``.
    """
    choices = [{**run.overrides, **provenance(run).get("choices", {})} for run in runs]
    configs = [flat(read_json(run.folder / CONFIG)) if run.folder else {} for run in runs]
    chosen = dict.fromkeys(name for each in choices for name in each)
    shared = dict.fromkeys(n for config in configs for n in config if all(n in c for c in configs))
    found: dict[str, list[Any]] = {}
    for name in {**chosen, **shared}:
        values = [
            config.get(name, each.get(name)) for config, each in zip(configs, choices, strict=True)
        ]
        is_shown = not any(part.startswith("_") for part in name.split("."))
        differ = any(value != values[0] for value in values)
        is_alias = name not in chosen and repr(values) in map(repr, found.values())
        if is_shown and differ and not is_alias:
            found[name] = values
    return found


def command_line(about: Mapping[str, Any]) -> str:
    """Return the command that made a run, given its provenance; none for a run of 0.1."""
    if not (choices := about.get("choices")):
        return ""
    words = about["command"]
    options = [word for word in words if word.startswith("--config-dir=")]
    options += [
        f"--config-dir={after}"
        for word, after in pairwise(words)
        if word in ("--config-dir", "-cd")
    ]
    return shlex.join(["deepprune", choices["command"], *options, *about["overrides"]])


def grouped(values: Sequence[Any], names: Sequence[str]) -> str:
    """Say which runs have which value: ``0.5 (3 runs), 0.7 (runs/A)``."""
    groups: dict[str, list[str]] = {}
    for value, name in zip(values, names, strict=True):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        groups.setdefault(text, []).append(name)
    return ", ".join(
        f"{value} ({who[0] if len(who) == 1 else f'{len(who)} runs'})"
        for value, who in groups.items()
    )
