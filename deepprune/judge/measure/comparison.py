"""The comparison of a multirun's runs: intervals over seeds and questions, paired differences.

Runs that differ in their seeds alone are one row; folds of a cross-validation are one run. S: seeds
of a row, R: draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from omegaconf import OmegaConf

from deepprune.core.files import as_json, read_json
from deepprune.core.protocols import FloatArray
from deepprune.core.provenance import FAILURE, PROVENANCE
from deepprune.core.seeding import generator
from deepprune.core.statistics import N_DRAWS, Estimate
from deepprune.judge.measure.bootstrap import QuestionDraws, estimate
from deepprune.judge.measure.metrics import METRICS, current_name
from deepprune.judge.measure.scored_pairs import UNFINISHED, PairScores

SUMMARY, TEST_SCORES = "summary.json", "test_scores.npz"
SEEDS = ("seed", "data.split_seed")
"""Overrides in which the runs of a row may differ."""

FOLD = "data.fold"
HEADLINE = "auroc_within_unfinished"
COMPARED = (*(metric + UNFINISHED for metric in METRICS), *METRICS)
"""The judge metrics of a comparison."""

MIN_SEEDS = 3
"""Fewest seeds for an interval over seeds: with two, Student's t has one degree of freedom, and
AUROC came out as [0.086, 1.147]."""

_Overrides: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RunRecord:
    """A run of a multirun, as read from its folder.

    Attributes:
        name: Name of the folder.
        status: ``ok``, ``failed``, ``interrupted``, ``unfinished`` (it was killed) or
            ``not started``.
        reason: Why it failed, where that is known.
        exit_code: 0, 2 for bad input, 1 for any other failure.
        overrides: Option -> value.
        point: Grid point of its policy metrics.
        metrics: Metrics on its own questions.
        scores: Scores of the test pairs; ``None`` without a trained judge.
        folder: The run folder; ``None`` of a run that was not started, or of joined folds.
    """

    name: str
    status: str
    reason: str
    exit_code: int
    overrides: Mapping[str, str]
    point: str
    metrics: Mapping[str, Estimate]
    scores: PairScores | None
    folder: Path | None = None


@dataclass(frozen=True)
class ComparedRow:
    """Runs that differ in their seeds alone.

    Attributes:
        overrides: Overrides that the runs share.
        runs: Finished runs.
        missing: All others.
        metrics: Means over the seeds. Judge metrics have a 95 % interval, see `compare`; a policy
            metric of several seeds has none (its ends are ``nan``).
        baseline: Overrides of the row that it is compared with; ``None`` for that row itself.
        differences: Judge metrics minus the baseline's, paired by question and seed.
    """

    overrides: Mapping[str, str]
    runs: Sequence[RunRecord]
    missing: Sequence[RunRecord]
    metrics: Mapping[str, Estimate]
    baseline: Mapping[str, str] | None
    differences: Mapping[str, Estimate]

    def record(self) -> dict[str, Any]:
        """Return the row as a line of ``comparison.jsonl``."""
        return {
            "overrides": dict(self.overrides),
            "runs": [run.name for run in self.runs],
            "missing": [run.name for run in self.missing],
            "point": self.runs[0].point if self.runs else "",
            "metrics": as_json(self.metrics),
            "baseline": self.baseline and dict(self.baseline),
            "differences": as_json(self.differences),
        }


def is_clear_of_0(difference: Estimate) -> bool:
    """Return whether the interval excludes 0."""
    return difference.low > 0 or difference.high < 0


def read_runs(folder: Path, planned: Sequence[Sequence[str]] = ()) -> list[RunRecord]:
    """Read the runs of a multirun in the order of their numbers, failed and unfinished ones too.

    ``planned`` are the overrides of the runs 0, 1, ...; one without a folder was not started.
    """
    folders = [path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")]
    runs = [read_run(path) for path in sorted(folders, key=lambda p: (len(p.name), p.name))]
    found = {run.name for run in runs}
    return runs + [
        RunRecord(str(i), "not started", "", 1, by_option(overrides), "", {}, None)
        for i, overrides in enumerate(planned)
        if str(i) not in found
    ]


def join_folds(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Join runs that differ in their fold alone; the test pairs are those of all folds.

    A joined run is finished when all its folds are and it has every fold that any run has. It has
    no metrics of its own: ``compare`` measures on all questions.
    """
    all_folds = {run.overrides[FOLD] for run in runs if FOLD in run.overrides}
    joined: list[RunRecord] = []
    for folds in _grouped(runs, (FOLD,)).values():
        is_folded = len(all_folds) > 1 and FOLD in folds[0].overrides
        joined += [_join(folds, all_folds)] if is_folded else folds
    return joined


def _grouped(
    runs: Sequence[RunRecord], ignored: Sequence[str]
) -> dict[_Overrides, list[RunRecord]]:
    """Group runs whose overrides are equal but for the ignored ones."""
    groups: dict[_Overrides, list[RunRecord]] = {}
    for run in runs:
        kept = tuple(sorted((k, v) for k, v in run.overrides.items() if k not in ignored))
        groups.setdefault(kept, []).append(run)
    return groups


def _join(folds: Sequence[RunRecord], all_folds: Set[str]) -> RunRecord:
    worst = max(folds, key=lambda run: (run.status != "ok", run.exit_code))
    if worst.status == "ok" and (absent := all_folds - {run.overrides[FOLD] for run in folds}):
        reason = f"{FOLD} {', '.join(sorted(absent))} was not started"
        worst = replace(worst, status="unfinished", reason=reason)
    scores = [run.scores for run in folds if run.scores is not None]
    is_whole = worst.status == "ok" and len(scores) == len(folds)
    return replace(
        worst,
        name="+".join(run.name for run in folds),
        folder=None,
        overrides={k: v for k, v in worst.overrides.items() if k != FOLD},
        metrics={},
        scores=PairScores.concatenate(scores) if is_whole else None,
    )


def compare(
    runs: Sequence[RunRecord],
    baseline: Mapping[str, Any] | None = None,
    *,
    by: Sequence[str] | None = None,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> list[ComparedRow]:
    """Group runs into rows, in the order of their first runs, and measure them.

    Questions are drawn with replacement, the same for all runs. The spread over seeds is drawn from
    Student's t with S - 1 degrees of freedom, the same for all rows of S seeds: a bootstrap of
    three seeds covers 81 % instead of 95. With fewer than `MIN_SEEDS` seeds the interval is over
    questions alone. Ends are cut off at the range of the metric.

    Args:
        runs: See ``read_runs``; folds are joined.
        baseline: Values of some options: a row is compared with the one that has these and agrees
            with it in all others. ``None`` for the first row with a finished run.
        by: Overrides that tell rows apart; runs that differ in others count as its seeds. ``None``
            for all but those of `SEEDS`.
        seed: Decides the draws.
        n_draws: R.
    """
    runs = join_folds(runs)
    scored = {id(run): run.scores for run in runs if run.scores is not None}  # names may repeat
    draws = QuestionDraws({q for s in scored.values() for q in s.question.tolist()}, seed, n_draws)
    measures = {key: draws.measure(scores) for key, scores in scored.items()}
    ignored: Sequence[str] = SEEDS if scored else ()
    if by is not None:
        ignored = sorted({name for run in runs for name in run.overrides} - {*by})
    grouped = _grouped(runs, ignored)
    rows = []
    for kept, members in grouped.items():
        finished = _finished(members)
        reference = _baseline(kept, grouped, baseline)
        others = [] if reference in (None, kept) else _finished(grouped[reference])
        mine, theirs = (
            {_seeds(r, ignored): r for r in rs if id(r) in scored} for rs in (finished, others)
        )
        differences = {}
        for seeds in mine.keys() & theirs.keys():
            one, other = id(mine[seeds]), id(theirs[seeds])
            if _have_same_pairs(scored[one], scored[other]):
                minus = {m: measures[one][m] - measures[other][m] for m in COMPARED}
                differences[seeds] = minus
        by_seeds = {seeds: measures[id(run)] for seeds, run in mine.items()}
        rows.append(
            ComparedRow(
                {k: v for k, v in members[0].overrides.items() if k not in ignored},
                finished,
                [run for run in members if run.status != "ok"],
                _other_metrics(finished) | _over_seeds(by_seeds, seed, lowest=0),
                dict(reference or ()) if others else None,
                _over_seeds(differences, seed, lowest=-1),
            )
        )
    return rows


def _over_seeds(
    by_seeds: Mapping[tuple[str, ...], Mapping[str, FloatArray]], seed: int, lowest: float
) -> dict[str, Estimate]:
    """Average over the seeds, with intervals cut off at ``lowest`` and 1."""
    names = sorted(by_seeds)
    found = {}
    for metric in COMPARED if names else ():
        values_RS = np.stack([by_seeds[name][metric] for name in names], axis=1)
        if np.isnan(values_RS[0]).any():
            continue
        weights_RS = _seed_weights(seed, len(names), len(values_RS) - 1)
        drawn = (weights_RS * values_RS[1:]).sum(axis=1)
        ends = np.clip(drawn, lowest, 1.0)
        found[metric] = estimate(np.concatenate([[values_RS[0].mean()], ends]))
    return found


@cache
def _seed_weights(seed: int, n: int, n_draws: int) -> FloatArray:
    """Draw weights of ``n`` seeds, shape ``(R, S)``; those of a draw sum to 1.

    The weighted sum of values is distributed as their mean plus its standard error times Student's
    t with S - 1 degrees of freedom; with fewer than `MIN_SEEDS` it is their mean.
    """
    if n < MIN_SEEDS:
        return np.full((n_draws, n), 1 / n)
    rng = generator(seed, "seeds")
    normal = rng.standard_normal((n_draws, n))
    normal -= normal.mean(axis=1, keepdims=True)
    scale = np.sqrt((n - 1) / rng.chisquare(n - 1, (n_draws, 1)))
    weights: FloatArray = 1 / n + normal * scale / math.sqrt(n * (n - 1))
    return weights


def _seeds(run: RunRecord, ignored: Sequence[str]) -> tuple[str, ...]:
    return tuple(run.overrides.get(name, "") for name in ignored)


def _finished(runs: Iterable[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if run.status == "ok"]


def _have_same_pairs(one: PairScores, other: PairScores) -> bool:
    """Return whether both score pairs of the same questions and labels, in any order."""
    these, those = (np.sort(np.char.add(s.group, s.labels.astype(str))) for s in (one, other))
    return np.array_equal(these, those)


def _baseline(
    kept: _Overrides,
    rows: Mapping[_Overrides, Sequence[RunRecord]],
    baseline: Mapping[str, Any] | None,
) -> _Overrides | None:
    """Find the overrides of the row that this one is compared with."""
    if baseline is None:
        return next((row for row, runs in rows.items() if _finished(runs)), None)
    others = {k: v for k, v in kept if k not in baseline}
    for row in rows:
        chosen = {k: _value(v) for k, v in row if k in baseline}
        if chosen == baseline and {k: v for k, v in row if k not in baseline} == others:
            return row
    return None


def _value(text: str) -> Any:
    """Parse an override's value as YAML, so that ``false`` equals ``False``."""
    read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    return read["value"]


def _other_metrics(runs: Sequence[RunRecord]) -> dict[str, Estimate]:
    """Average the metrics that the bootstrap does not recompute."""
    metrics = {}
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        found = [run.metrics[name] for run in runs if name in run.metrics]
        if len(found) == 1:
            metrics[name] = found[0]
        elif name not in COMPARED:
            mean = sum(e.value for e in found) / len(found)
            metrics[name] = Estimate(mean, math.nan, math.nan)
    return metrics


def read_run(folder: Path) -> RunRecord:
    """Read the record of one run, finished or not, of any command."""
    summary = read_json(folder / SUMMARY)
    failure = read_json(folder / FAILURE)
    status = "failed" if failure else summary.get("status", "unfinished")
    scores = folder / TEST_SCORES
    given: Any = read_json(folder / PROVENANCE).get("overrides", [])
    if (composed := folder / ".hydra" / "overrides.yaml").exists():
        given = OmegaConf.load(composed)
    return RunRecord(
        folder.name,
        status,
        failure.get("reason", ""),
        failure.get("exit_code", int(status != "ok")),
        summary.get("overrides") or by_option(given),
        summary.get("point", ""),
        {current_name(name): Estimate(*e) for name, e in summary.get("metrics", {}).items()},
        PairScores.load(scores) if status == "ok" and scores.exists() else None,
        folder,
    )


def by_option(overrides: Iterable[str]) -> dict[str, str]:
    """Map option to value, without the signs that add or force an override."""
    return dict(o.lstrip("+~").split("=", 1) for o in overrides if "=" in o)
