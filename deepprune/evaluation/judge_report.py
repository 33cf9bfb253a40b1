"""How well a judge tells pairs apart on held-out questions, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepprune.evaluation.scores import cached_scores
from deepprune.evaluation.statistics import N_DRAWS, Estimate
from deepprune.files import write_atomic
from deepprune.judge.base import Judge
from deepprune.judge.bootstrap import bootstrap_questions
from deepprune.judge.metrics import judge_metrics
from deepprune.judge.score_cache import ScoreCache
from deepprune.protocols import BoolArray, FloatArray
from deepprune.types import TracePair

COUNTS = ("n_pairs", "n_questions", "same_share")

JudgeReport = dict[str, dict[str, Estimate]]
"""Part of the pairs -> metric -> estimate. The part ``all`` is always there; its metrics come for
all pairs (``auroc``) and for those of which neither trace has finished (``auroc_unfinished``).
Other parts are ``model=NAME`` and ``dataset=NAME`` where there are several."""


def judge_report(
    judge: Judge, pairs: Sequence[TracePair], *, seed: int, cache: ScoreCache | None = None
) -> JudgeReport:
    """Score labelled pairs and report every metric, overall and by model and data set.

    Args:
        judge: Who scores.
        pairs: Labelled pairs of held-out questions.
        seed: Seed of the bootstrap over questions.
        cache: Scores on disk, kept between runs.
    """
    scores = cached_scores(judge, cache, pairs)
    traces = [p.first.trace for p in pairs]
    parts = {"all": np.ones(len(pairs), dtype=np.bool_)}
    for kind, names in (
        ("model", [t.model for t in traces]),
        ("dataset", [t.question.dataset for t in traces]),
    ):
        if len(set(names)) > 1:
            parts |= {f"{kind}={n}": np.array(names) == n for n in sorted(set(names))}
    return {part: _metrics(scores, pairs, chosen, seed) for part, chosen in parts.items()}


def _metrics(
    scores: FloatArray, pairs: Sequence[TracePair], chosen: BoolArray, seed: int
) -> dict[str, Estimate]:
    labels = np.array([p.label for p in pairs], dtype=np.int64)
    names = [f"{q.dataset}\n{q.question_id}" for q in (p.first.trace.question for p in pairs)]
    groups = np.array([f"{n}\n{p.first.trace.model}" for n, p in zip(names, pairs, strict=True)])
    clusters = np.array(names)
    unfinished = np.array([p.is_unfinished for p in pairs])
    metrics: dict[str, Estimate] = {}
    for suffix, mask in (("", chosen), ("_unfinished", chosen & unfinished)):
        facts = scores[mask], labels[mask], groups[mask]
        for name, value in judge_metrics(*facts).items():
            if name in COUNTS or np.isnan(value):
                low = high = value
            else:
                low, high = bootstrap_questions(
                    name, *facts, clusters=clusters[mask], n=N_DRAWS, seed=seed
                )
            metrics[name + suffix] = Estimate(value, low, high)
    return metrics


def write_judge_reports(path: Path, reports: Mapping[str, JudgeReport]) -> None:
    """Write ``judge_report.json``: judge -> part -> metric -> [value, low, high]; NaN as null."""
    plain = {
        judge: {
            part: {
                name: [None if np.isnan(v) else v for v in estimate]
                for name, estimate in metrics.items()
            }
            for part, metrics in report.items()
        }
        for judge, report in reports.items()
    }
    write_atomic(path, json.dumps(plain, indent=1))
