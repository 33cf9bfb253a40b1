"""The runs of a multirun side by side: intervals over seeds and questions, paired differences.

Runs that differ in their seeds alone are one row, and folds of a cross-validation are one run. Q:
questions of all runs, S: seeds of a row, R: draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from deepprune.evaluation.pair_scores import UNFINISHED, PairScores
from deepprune.evaluation.statistics import N_DRAWS, Estimate
from deepprune.judge.bootstrap import interval, metric_of_resamples, resamples
from deepprune.protocols import FloatArray
from deepprune.seeding import generator

SUMMARY, FAILURE, TEST_SCORES = "summary.json", "failure.json", "test_scores.npz"
SEEDS = ("seed", "data.split_seed")
"""Overrides in which the runs of a row may differ."""

FOLD = "data.fold"
HEADLINE = "auroc_within_unfinished"
COMPARED = (
    HEADLINE,
    "auroc_unfinished",
    "tnr_at_fnr_0.2_unfinished",
    "auroc_within",
    "auroc",
    "tnr_at_fnr_0.2",
    "ece",
    "brier",
)
"""The judge metrics of a comparison."""


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


def read_runs(folder: Path) -> list[RunRecord]:
    """The runs of a multirun in the order of their numbers, also those that did not get far."""
    folders = [path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")]
    return [_read_run(path) for path in sorted(folders, key=lambda p: (len(p.name), p.name))]


def join_folds(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs that differ in their fold alone as one, whose test pairs are those of all folds.

    It is done when all of them are. Metrics of a fold's own questions are left out: ``compare``
    measures on all questions.
    """
    folds: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for run in runs:
        kept = tuple(sorted((k, v) for k, v in run.overrides.items() if k != FOLD))
        folds.setdefault(kept, []).append(run)
    return [_join(of_one) if len(of_one) > 1 else of_one[0] for of_one in folds.values()]


def _join(folds: Sequence[RunRecord]) -> RunRecord:
    worst = max(folds, key=lambda run: (run.status != "ok", run.exit_code))
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

    Questions are drawn with replacement, the same for all runs, and seeds, the same for rows that
    have the same. A mean over S drawn seeds varies (S - 1) / S times as much as one over new seeds,
    so what the draw of seeds adds is widened by sqrt(S / (S - 1)). With one seed the interval is
    over questions alone.

    Args:
        runs: See ``read_runs``; folds are joined.
        baseline: Values of some options: a row is compared with the one that has these and agrees
            with it in all others. ``None`` for the first row.
        seed: Decides the draws.
        n_draws: R.
    """
    runs = join_folds(runs)
    scored = [run for run in runs if run.scores is not None]
    replicated = SEEDS if scored else ()
    grouped: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for run in runs:
        kept = tuple(sorted((k, v) for k, v in run.overrides.items() if k not in replicated))
        grouped.setdefault(kept, []).append(run)
    draws = _Draws([run.scores for run in scored if run.scores is not None], seed, n_draws)
    rows = []
    for kept, members in grouped.items():
        done = [run for run in members if run.status == "ok"]
        reference = _baseline(kept, grouped, baseline)
        others = [r for r in grouped.get(reference, ()) if r.status == "ok"]
        is_reference = reference == kept
        rows.append(
            ComparedRow(
                {k: v for k, v in members[0].overrides.items() if k not in replicated},
                done,
                [run for run in members if run.status != "ok"],
                _other_metrics(done) | draws.estimates(done),
                None if is_reference or not others else dict(reference),
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
        self._of_run: dict[tuple[str, str], FloatArray] = {}

    def estimates(self, runs: Sequence[RunRecord]) -> dict[str, Estimate]:
        """Means over the seeds of a row."""
        return self._over_seeds({_seeds(run): (run,) for run in runs if run.scores is not None})

    def differences(
        self, runs: Sequence[RunRecord], others: Sequence[RunRecord]
    ) -> dict[str, Estimate]:
        """Means over the seeds that both rows have."""
        those = {_seeds(run): run for run in others if run.scores is not None}
        pairs = {_seeds(r): (r, those[_seeds(r)]) for r in runs if r.scores and _seeds(r) in those}
        return self._over_seeds(pairs)

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
        if (key := (run.name, metric)) not in self._of_run:
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
    """Weights of the seeds in each draw, shape ``(R, S)``, widened as ``compare`` says."""
    n = len(names)
    rng = generator(seed, "seeds", *("\t".join(name) for name in names))
    drawn: FloatArray = rng.multinomial(n, np.full(n, 1 / n), size=n_draws) / n
    return 1 / n + (drawn - 1 / n) * math.sqrt(n / max(n - 1, 1))


def _seeds(run: RunRecord) -> tuple[str, ...]:
    return tuple(run.overrides.get(name, "") for name in SEEDS)


def _baseline(
    kept: tuple[tuple[str, str], ...],
    rows: Iterable[tuple[tuple[str, str], ...]],
    baseline: Mapping[str, Any] | None,
) -> tuple[tuple[str, str], ...]:
    """The overrides of the row that this one is compared with."""
    if baseline is None:
        return next(iter(rows))
    return tuple(sorted((dict(kept) | {k: str(v) for k, v in baseline.items()}).items()))


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
        {name: Estimate(*e) for name, e in summary.get("metrics", {}).items()},
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
