"""How well a judge tells pairs apart on held-out questions, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from deepprune.core.files import write_atomic
from deepprune.core.protocols import BoolArray, FloatArray, IntArray
from deepprune.core.statistics import N_DRAWS, Estimate
from deepprune.core.types import TracePair
from deepprune.data.pairs import groups_of, labels_of, questions_of
from deepprune.judge.base import Judge
from deepprune.judge.calibration import Calibration
from deepprune.judge.measure.bootstrap import bootstrap_questions
from deepprune.judge.measure.metrics import brier, expected_calibration_error, judge_metrics
from deepprune.judge.measure.scored_pairs import UNFINISHED
from deepprune.judge.score_cache import ScoreCache
from deepprune.judge.scoring import cached_scores
from deepprune.judge.trained import TrainedJudge

COUNTS = ("n_pairs", "n_questions", "same_share")

_CHUNK = 2048  # pairs that are scored before they are recorded

JudgeReport = dict[str, dict[str, Estimate]]
"""Part of the pairs -> metric -> estimate. The part ``all`` is always there; its metrics come for
all pairs (``auroc``) and for those of which neither trace has finished (``auroc_unfinished``).
Other parts are ``model=NAME`` and ``dataset=NAME`` where there are several."""


def judge_report(
    judge: Judge,
    pairs: Sequence[TracePair],
    *,
    seed: int,
    cache: ScoreCache | None = None,
    scores: FloatArray | None = None,
) -> JudgeReport:
    """Score labelled pairs and report every metric, overall and by model and data set.

    Args:
        judge: Who scores.
        pairs: Labelled pairs of held-out questions.
        seed: Seed of the bootstrap over questions.
        cache: Scores on disk, kept between runs.
        scores: Of the pairs, where they are known already.
    """
    scores = cached_scores(judge, cache, pairs) if scores is None else scores
    traces = [p.first.trace for p in pairs]
    parts = {"all": np.ones(len(pairs), dtype=np.bool_)}
    for kind, names in (
        ("model", [t.model for t in traces]),
        ("dataset", [t.question.dataset for t in traces]),
    ):
        if len(set(names)) > 1:
            parts |= {f"{kind}={n}": np.array(names) == n for n in sorted(set(names))}
    return {part: _metrics(scores, pairs, chosen, seed) for part, chosen in parts.items()}


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """Scores of a trained judge before its calibration and after, of P labelled pairs.

    Attributes:
        before: ``sigmoid(logit)``, shape ``(P,)``.
        after: What the judge says, shape ``(P,)``.
        labels: 1 or 0, shape ``(P,)``.
        questions: Name of the question, shape ``(P,)``.
        is_unfinished: Whether neither trace has finished, shape ``(P,)``.
    """

    before: FloatArray
    after: FloatArray
    labels: IntArray
    questions: NDArray[Any]
    is_unfinished: BoolArray

    @classmethod
    def of(
        cls, judge: TrainedJudge, pairs: Sequence[TracePair], cache: ScoreCache
    ) -> CalibrationReport:
        """One forward pass over the pairs; a neural network's scores are kept in ``cache``.

        They are recorded a chunk at a time, so that a kill costs little.
        """
        fingerprint = judge.provenance.fingerprint
        if fingerprint is None or not judge.is_model or judge.reads_peers:
            logits = judge.logits(pairs)
            before, after = expit(logits), judge.calibration(logits)
        else:
            names = f"{fingerprint} uncalibrated", fingerprint
            before, after = (cache.get_many(name, pairs) for name in names)
            missing = np.flatnonzero(np.isnan(before) | np.isnan(after)).tolist()
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                todo = [pairs[i] for i in chunk]
                logits = judge.logits(todo)
                before[chunk], after[chunk] = expit(logits), judge.calibration(logits)
                for name, scores in zip(names, (before, after), strict=True):
                    cache.put_many(name, todo, scores[chunk])
        return cls(
            before,
            after,
            labels_of(pairs),
            np.array(questions_of(pairs)),
            np.array([pair.is_unfinished for pair in pairs], dtype=np.bool_),
        )

    def metrics(self, seed: int) -> dict[str, dict[str, Estimate]]:
        """``before`` and ``after`` -> ``ece``, ``brier``, with ``_unfinished`` on those pairs."""
        parts = {"": np.ones_like(self.is_unfinished), UNFINISHED: self.is_unfinished}
        found: dict[str, dict[str, Estimate]] = {}
        for when, scores in (("before", self.before), ("after", self.after)):
            found[when] = {}
            for suffix, part in parts.items():
                measured = scores[part], self.labels[part], self.questions[part]
                for name, metric in (("ece", expected_calibration_error), ("brier", brier)):
                    found[when][name + suffix] = Estimate(
                        metric(*measured[:2]),
                        *bootstrap_questions(name, *measured, n=N_DRAWS, seed=seed),
                    )
        return found


def _metrics(
    scores: FloatArray, pairs: Sequence[TracePair], chosen: BoolArray, seed: int
) -> dict[str, Estimate]:
    labels = np.array([p.label for p in pairs], dtype=np.int64)
    groups, clusters = np.array(groups_of(pairs)), np.array(questions_of(pairs))
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


def write_calibration(
    path: Path, calibration: Calibration, metrics: Mapping[str, Mapping[str, Estimate]]
) -> None:
    """Write ``calibration.json``: the calibration, and what it changes; NaN as null."""
    plain = {
        when: {
            name: [None if np.isnan(v) else v for v in estimate] for name, estimate in found.items()
        }
        for when, found in metrics.items()
    }
    write_atomic(path, json.dumps({"calibration": calibration.to_json(), **plain}, indent=1))


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
