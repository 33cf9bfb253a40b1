"""The runs of a multirun side by side: intervals over seeds and questions, paired differences.

Runs that differ in their seeds alone are one row, and folds of a cross-validation are one run. Q:
questions of all runs, S: seeds of a row, R: draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from deepprune.core.protocols import FloatArray
from deepprune.core.seeding import generator
from deepprune.core.statistics import N_DRAWS, Estimate
from deepprune.judge.measure.bootstrap import interval, metric_of_resamples, resamples
from deepprune.judge.measure.metrics import current_name
from deepprune.judge.measure.scored_pairs import UNFINISHED, PairScores

SUMMARY, FAILURE, TEST_SCORES = "summary.json", "failure.json", "test_scores.npz"
SEEDS = ("seed", "data.split_seed")
"""Overrides in which the runs of a row may differ."""

FOLD = "data.fold"
HEADLINE = "auroc_within_unfinished"
COMPARED = (
    HEADLINE,
    "auroc_unfinished",
    "tnr_at_fnr_20_unfinished",
    "auroc_within",
    "auroc",
    "tnr_at_fnr_20",
    "ece",
    "brier",
)
"""The judge metrics of a comparison."""

_Overrides: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RunRecord:
    """What a run of a multirun has left in its folder.

    Attributes:
        name: Of the folder.
        status: ``ok``, ``failed``, or ``unfinished`` for one that was killed.
        reason: Why it failed, where that is known.
        exit_code: 0, 2 for bad input, 1 for anything else.
        overrides: Option -> value.
        point: The grid point that its policy metrics are of.
        metrics: Of its own questions.
        scores: Of the test pairs; ``None`` for a run without a trained judge.
    """

    name: str
    status: str
    reason: str
    exit_code: int
    overrides: Mapping[str, str]
    point: str
    metrics: Mapping[str, Estimate]
    scores: PairScores | None


@dataclass(frozen=True)
class ComparedRow:
    """Runs that differ in their seeds alone.

    Attributes:
        overrides: What they have in common.
        runs: Those that are done.
        missing: Those that failed or were killed.
        metrics: Means over the seeds. Judge metrics have a 95 % interval over seeds and questions;
            a policy metric of several seeds has none (its ends are ``nan``).
        baseline: Overrides of the row it is compared with; ``None`` for that row itself.
        differences: Of the judge metrics to the baseline's, paired by question and seed.
    """

    overrides: Mapping[str, str]
    runs: Sequence[RunRecord]
    missing: Sequence[RunRecord]
    metrics: Mapping[str, Estimate]
    baseline: Mapping[str, str] | None
    differences: Mapping[str, Estimate]

    def record(self) -> dict[str, Any]:
        """As a line of ``comparison.jsonl``."""
        return {
            "overrides": dict(self.overrides),
            "runs": [run.name for run in self.runs],
            "missing": [run.name for run in self.missing],
            "point": self.runs[0].point if self.runs else "",
            "metrics": {name: _plain(e) for name, e in self.metrics.items()},
            "baseline": self.baseline and dict(self.baseline),
            "differences": {name: _plain(e) for name, e in self.differences.items()},
        }


def is_clear_of_0(difference: Estimate) -> bool:
    """Whether the interval leaves 0 out."""
    return difference.low > 0 or difference.high < 0


def read_runs(folder: Path, planned: Sequence[Sequence[str]] = ()) -> list[RunRecord]:
    """Read the runs of a multirun in the order of their numbers, failed and unfinished ones too.

    Args:
        folder: Of the multirun.
        planned: Overrides of the runs 0, 1, ...: a run without a folder was not started.
    """
    folders = [path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")]
    runs = [_read_run(path) for path in sorted(folders, key=lambda p: (len(p.name), p.name))]
    found = {run.name for run in runs}
    return runs + [
        RunRecord(str(i), "not started", "", 1, by_option(overrides), "", {}, None)
        for i, overrides in enumerate(planned)
        if str(i) not in found
    ]


def join_folds(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs that differ in their fold alone as one, whose test pairs are those of all folds.

    It is done when all of them are, and it has every fold that any run has. Metrics of a fold's own
    questions are left out: ``compare`` measures on all questions.
    """
    there = {run.overrides[FOLD] for run in runs if FOLD in run.overrides}
    folds: dict[_Overrides, list[RunRecord]] = {}
    for run in runs:
        kept = tuple(sorted((k, v) for k, v in run.overrides.items() if k != FOLD))
        folds.setdefault(kept, []).append(run)
    joined: list[RunRecord] = []
    for of_one in folds.values():
        is_folded = len(there) > 1 and FOLD in of_one[0].overrides
        joined += [_join(of_one, there)] if is_folded else of_one
    return joined


def _join(folds: Sequence[RunRecord], there: Set[str]) -> RunRecord:
    worst = max(folds, key=lambda run: (run.status != "ok", run.exit_code))
    if worst.status == "ok" and (absent := there - {run.overrides[FOLD] for run in folds}):
        reason = f"{FOLD} {', '.join(sorted(absent))} was not started"
        worst = replace(worst, status="unfinished", reason=reason)
    scores = [run.scores for run in folds if run.scores is not None]
    is_whole = worst.status == "ok" and len(scores) == len(folds)
    return replace(
        worst,
        name="+".join(run.name for run in folds),
        overrides={k: v for k, v in worst.overrides.items() if k != FOLD},
        metrics={},
        scores=PairScores.concatenate(scores) if is_whole else None,
    )


def compare(
    runs: Sequence[RunRecord],
    baseline: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> list[ComparedRow]:
    """Rows in the order of their first runs.

    Questions are drawn with replacement, the same for all runs. What the seeds add is drawn from
    Student's t with S - 1 degrees of freedom, the same for rows that have the same seeds: a
    bootstrap of so few would cover too little (81 % with three). With one seed the interval is over
    questions alone.

    Args:
        runs: See ``read_runs``; folds are joined.
        baseline: Values of some options: a row is compared with the one that has these and agrees
            with it in all others. ``None`` for the first row that has a run which is done.
        seed: Decides the draws.
        n_draws: R.
    """
    runs = join_folds(runs)
    scored = [run for run in runs if run.scores is not None]
    replicated = SEEDS if scored else ()
    grouped: dict[_Overrides, list[RunRecord]] = {}
    for run in runs:
        kept = tuple(sorted((k, v) for k, v in run.overrides.items() if k not in replicated))
        grouped.setdefault(kept, []).append(run)
    draws = _Draws([run.scores for run in scored if run.scores is not None], seed, n_draws)
    rows = []
    for kept, members in grouped.items():
        done = _done(members)
        reference = _baseline(kept, grouped, baseline)
        others = [] if reference is None else _done(grouped[reference])
        is_reference = reference == kept
        rows.append(
            ComparedRow(
                {k: v for k, v in members[0].overrides.items() if k not in replicated},
                done,
                [run for run in members if run.status != "ok"],
                _other_metrics(done) | draws.estimates(done),
                None if is_reference or not others else dict(reference or ()),
                {} if is_reference else draws.differences(done, others),
            )
        )
    return rows


class _Draws:
    """Judge metrics of runs on common draws of questions and seeds."""

    def __init__(self, scores: Sequence[PairScores], seed: int, n_draws: int) -> None:
        named = [s.question for s in scores]
        self._questions: NDArray[Any] = np.unique(np.concatenate(named)) if named else np.array([])
        self._seed, self._n = seed, n_draws
        self._counts_RQ = resamples(len(self._questions), n_draws, seed) if scores else None
        self._of_run: dict[tuple[int, str], FloatArray] = {}

    def estimates(self, runs: Sequence[RunRecord]) -> dict[str, Estimate]:
        """Means over the seeds of a row."""
        return self._over_seeds({_seeds(run): (run,) for run in runs if run.scores is not None})

    def differences(
        self, runs: Sequence[RunRecord], others: Sequence[RunRecord]
    ) -> dict[str, Estimate]:
        """Means over the seeds that both rows have with the same pairs."""
        those = {_seeds(run): run for run in others}
        both = {_seeds(r): (r, those[_seeds(r)]) for r in runs if _seeds(r) in those}
        return self._over_seeds({s: pair for s, pair in both.items() if _have_same_pairs(*pair)})

    def _over_seeds(
        self, by_seeds: Mapping[tuple[str, ...], Sequence[RunRecord]]
    ) -> dict[str, Estimate]:
        if not by_seeds:
            return {}
        names = sorted(by_seeds)
        weights_RS = _seed_weights(self._seed, tuple(names), self._n)
        estimates = {}
        for metric in COMPARED:
            values_RS = np.stack([self._values(by_seeds[s], metric) for s in names], axis=1)
            if np.isnan(values_RS[0]).any():
                continue
            drawn = (weights_RS * values_RS[1:]).sum(axis=1)
            estimates[metric] = Estimate(float(values_RS[0].mean()), *interval(drawn))
        return estimates

    def _values(self, runs: Sequence[RunRecord], metric: str) -> FloatArray:
        """The metric of a run, or of one less that of another, then its draws, ``(1 + R,)``."""
        first = self._run(runs[0], metric)
        return first - self._run(runs[1], metric) if len(runs) > 1 else first

    def _run(self, run: RunRecord, metric: str) -> FloatArray:
        if (key := (id(run), metric)) not in self._of_run:  # two multiruns have a run 0 each
            assert run.scores is not None
            assert self._counts_RQ is not None
            chosen = run.scores.unfinished() if metric.endswith(UNFINISHED) else run.scores
            drawn = metric_of_resamples(
                metric.removesuffix(UNFINISHED),
                chosen.scores,
                chosen.labels,
                chosen.group,
                np.searchsorted(self._questions, chosen.question),
                self._counts_RQ,
            )
            self._of_run[key] = np.concatenate([[run.scores.metric(metric)], drawn])
        return self._of_run[key]


@cache
def _seed_weights(seed: int, names: tuple[tuple[str, ...], ...], n_draws: int) -> FloatArray:
    """Weights of the seeds in each draw, shape ``(R, S)``, each draw's of sum 1.

    The weighted sum of values is distributed as their mean plus its standard error times Student's
    t with S - 1 degrees of freedom.
    """
    if (n := len(names)) == 1:
        return np.ones((n_draws, 1))
    rng = generator(seed, "seeds", *("\t".join(name) for name in names))
    normal = rng.standard_normal((n_draws, n))
    normal -= normal.mean(axis=1, keepdims=True)
    scale = np.sqrt((n - 1) / rng.chisquare(n - 1, (n_draws, 1)))
    weights: FloatArray = 1 / n + normal * scale / math.sqrt(n * (n - 1))
    return weights


def _seeds(run: RunRecord) -> tuple[str, ...]:
    return tuple(run.overrides.get(name, "") for name in SEEDS)


def _done(runs: Iterable[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if run.status == "ok"]


def _have_same_pairs(run: RunRecord, other: RunRecord) -> bool:
    """Whether two runs have scored pairs of the same questions and labels, in any order."""
    if run.scores is None or other.scores is None:
        return False
    these, those = (
        np.sort(np.char.add(s.group, s.labels.astype(str))) for s in (run.scores, other.scores)
    )
    return np.array_equal(these, those)


def _baseline(
    kept: _Overrides,
    rows: Mapping[_Overrides, Sequence[RunRecord]],
    baseline: Mapping[str, Any] | None,
) -> _Overrides | None:
    """The overrides of the row that this one is compared with."""
    if baseline is None:
        return next((row for row, runs in rows.items() if _done(runs)), None)
    others = {k: v for k, v in kept if k not in baseline}
    for row in rows:
        chosen = {k: _value(v) for k, v in row if k in baseline}
        if chosen == baseline and {k: v for k, v in row if k not in baseline} == others:
            return row
    return None


def _value(text: str) -> Any:
    """An override's value as YAML reads it: ``False`` of ``false``, ``None`` of ``null``."""
    read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    return read["value"]


def _other_metrics(runs: Sequence[RunRecord]) -> dict[str, Estimate]:
    """Means of what is not measured anew on common draws."""
    metrics = {}
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        found = [run.metrics[name] for run in runs if name in run.metrics]
        if len(found) == 1:
            metrics[name] = found[0]
        elif name not in COMPARED:
            mean = sum(e.value for e in found) / len(found)
            metrics[name] = Estimate(mean, math.nan, math.nan)
    return metrics


def _read_run(folder: Path) -> RunRecord:
    summary = _read(folder / SUMMARY)
    failure = _read(folder / FAILURE)
    status = "failed" if failure else summary.get("status", "unfinished")
    scores = folder / TEST_SCORES
    return RunRecord(
        folder.name,
        status,
        failure.get("reason", ""),
        failure.get("exit_code", int(status != "ok")),
        summary.get("overrides") or _overrides(folder),
        summary.get("point", ""),
        {current_name(name): Estimate(*e) for name, e in summary.get("metrics", {}).items()},
        PairScores.load(scores) if status == "ok" and scores.exists() else None,
    )


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _overrides(folder: Path) -> dict[str, str]:
    """Of a run that has not come to write its summary."""
    given: Any = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    return by_option(list(given))


def by_option(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides as option -> value, without the signs that add or force one."""
    return dict(o.lstrip("+~").split("=", 1) for o in overrides if "=" in o)


def _plain(estimate: Estimate) -> list[float | None]:
    """With null for what is not known."""
    return [None if math.isnan(v) else v for v in estimate]
