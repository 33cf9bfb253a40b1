"""Forced answers as evidence: how far two traces' histories of them agree; no text, no torch.

P: pairs, F: features, n: distinct prefixes, M: the most checkpoints of a prefix.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from deepprune.core.errors import InputError
from deepprune.core.protocols import FloatArray, IntArray, Need
from deepprune.core.types import NO_ANSWER, Prefix, PrefixRule, TracePair
from deepprune.data.pairs import groups_of, labels_of
from deepprune.judge.base import JudgeProvenance
from deepprune.judge.boosting import question_balanced_weights
from deepprune.judge.calibration import Calibration, calibration_from_json
from deepprune.judge.saved import (
    FORMAT,
    PROBE,
    RECORD,
    check_runs_on_cpu,
    damaged,
    read_record,
    rule_from_json,
    rule_to_json,
    write_folder,
    write_json,
)
from deepprune.judge.trained import TrainedJudge

VERSION = 1
"""Of the features: weights are read back only by the version that they were fitted with."""

PROBE_NAMES = (
    "probe_latest_agree",
    "probe_latest_differ",
    "probe_agreement_last_3",
    "probe_agreement_all",
    "probe_similarity",
    *(
        f"probe_{fact}_{measure}"
        for fact in ("latest_in_other", "latest_run", "answered", "checkpoints")
        for measure in ("low", "high")
    ),
)
"""Columns of ``probe_features``; of what either prefix has, the lower and the higher."""

_PAIRS = 8192  # compared together, which bounds the memory


def probe_features(pairs: Sequence[TracePair]) -> FloatArray:
    """Agreement of forced answers by `PROBE_NAMES`, finite, shape ``(P, F)``; symmetric.

    A checkpoint is the i-th forced answer of either trace. Only those up to the end of a prefix
    count, never the final answer, and an answer stands until the trace gives another: so one
    without an answer repeats the last, and so does a trace whose forced answers end before the
    other's.

    - ``latest_agree`` and ``latest_differ``: 1 or 0; both 0 where a trace has no answer yet.
    - ``agreement``: share of the checkpoints, the last 3 or all, at which the answers are equal.
    - ``similarity``: chance that a checkpoint of each, drawn at random, have the same answer.
    - ``latest_in_other``: share of the other's checkpoints that have one's latest answer.
    - ``latest_run``: checkpoints in a row, up to the last, that have the latest answer.
    - ``answered``: share of the checkpoints with an answer of their own.
    - ``checkpoints``: how many. Where there are none, all is 0.
    """
    position: dict[int, int] = {}  # by identity: a prefix is in many pairs
    prefixes = [p for pair in pairs for p in (pair.first, pair.second)]
    ends = np.array([position.setdefault(id(p), len(position)) for p in prefixes], dtype=np.int64)
    distinct = list({id(p): p for p in prefixes}.values())
    histories = _Histories(distinct)
    chunks = np.split(ends.reshape(-1, 2), range(_PAIRS, len(pairs), _PAIRS))
    return np.concatenate([histories.compare(chunk) for chunk in chunks])


@dataclass(frozen=True, slots=True)
class LogisticRegression:
    """How the weights of the features are fitted: mean log loss plus ``l2 / 2 |w|^2``.

    ``w`` weighs standardised features. Many pairs of thirty questions are little evidence: on them
    boosted trees did no better.

    Args:
        l2: Regularisation, above 0.
        question_balanced: Every question, and either class within it, weighs alike, see
            ``question_balanced_weights``; else every pair.

    Raises:
        InputError: If ``l2`` is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FORCED_ANSWERS})
    l2: float
    question_balanced: bool = True

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise InputError(f"model.l2 must be above 0, got {self.l2}.")

    def fit(
        self, features: FloatArray, labels: IntArray, questions: ArrayLike
    ) -> tuple[FloatArray, float]:
        """Fit on pairs of several questions.

        Args:
            features: Finite, shape ``(P, F)``.
            labels: 1 or 0, both present, shape ``(P,)``.
            questions: The question of each pair, shape ``(P,)``.

        Returns:
            Weights of the features as they are, shape ``(F,)``, and the bias.
        """
        from sklearn.linear_model import LogisticRegression as Solver
        from threadpoolctl import threadpool_limits  # a requirement of scikit-learn

        weights = question_balanced_weights(labels, questions) if self.question_balanced else None
        mean, scale = features.mean(0), features.std(0)
        scale[scale == 0] = 1.0
        solver = Solver(C=1 / (self.l2 * len(labels)), max_iter=1000, tol=1e-8)
        with threadpool_limits(limits=1):  # sums have one order
            solver.fit((features - mean) / scale, labels, sample_weight=weights)
        w = np.asarray(solver.coef_[0], dtype=np.float64) / scale
        return w, float(solver.intercept_[0] - w @ mean)


class ProbeJudge(TrainedJudge):
    """Logistic regression on how far the forced answers of two traces agree.

    It reads no text. It costs calls only: some twenty sums a pair, counted as no FLOPs. What the
    answers took to be forced is the generator's bill, see ``Session.read_forced_answers``.

    On 30 AIME 2024 questions of Qwen3-8B, answers forced every 500 tokens, in 5 folds, its
    within-question AUROC is .53, .53, .61, .60 at 2,000, 4,000, 8,000 and 12,000 tokens, on pairs
    of which neither has ended its thinking; that both latest answers agree has .53, .53, .60, .60.

    Args:
        weights: Of `PROBE_NAMES`, shape ``(F,)``.
        bias: Added to the weighted sum.
        calibration: Logits to scores.
        name: Short name for tables.
        seen_questions: Hashes of the questions used for fitting it.
    """

    is_symmetric = True
    needs = LogisticRegression.needs

    def __init__(
        self,
        weights: FloatArray,
        bias: float,
        *,
        calibration: Calibration | None = None,
        name: str = "probe",
        seen_questions: frozenset[str] = frozenset(),
    ) -> None:
        if weights.shape != (len(PROBE_NAMES),) or not np.isfinite([*weights, bias]).all():
            raise ValueError(f"weights must be {len(PROBE_NAMES)} numbers, got {weights}, {bias}.")
        super().__init__(calibration, name=name, seen_questions=seen_questions)
        self.weights, self.bias = weights, bias

    @classmethod
    def fit(
        cls,
        pairs: Sequence[TracePair],
        settings: LogisticRegression,
        *,
        seen_questions: frozenset[str] = frozenset(),
    ) -> ProbeJudge:
        """Fit weights on labelled pairs of both classes.

        Args:
            pairs: Training pairs.
            settings: How.
            seen_questions: Hashes of the questions of these and of the validation pairs.
        """
        weights, bias = settings.fit(probe_features(pairs), labels_of(pairs), groups_of(pairs))
        return cls(weights, bias, seen_questions=seen_questions)

    @property
    def provenance(self) -> JudgeProvenance:
        """Its fingerprint follows from features, weights and calibration."""
        settings = json.dumps([VERSION, self._weights(), self.bias, self.calibration.to_json()])
        fingerprint = hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
        return JudgeProvenance(self._name, fingerprint, self._seen, self._path)

    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Uncalibrated logits, shape ``(len(pairs),)``."""
        logits: FloatArray = probe_features(pairs) @ self.weights + self.bias
        return logits

    def export(
        self,
        folder: Path | str,
        *,
        prefix_rule: PrefixRule | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the folder that ``load`` reads, atomically: ``judge.json``, which holds it all.

        Args:
            folder: Where to; it must not exist.
            prefix_rule: The prefixes it was trained on, for whoever loads it.
            training: JSON values to keep with it: settings, numbers of pairs.

        Raises:
            InputError: If the folder exists.
        """
        record = {
            "format": FORMAT,
            "kind": PROBE,
            "name": self._name,
            "needs": sorted(self.needs),
            "features": VERSION,
            "weights": self._weights(),
            "bias": self.bias,
            "calibration": self.calibration.to_json(),
            "prefix_rule": rule_to_json(prefix_rule),
            "seen_questions": sorted(self._seen),
            "training": dict(training or {}),
            "fingerprint": self.provenance.fingerprint,
        }
        return write_folder(Path(folder), lambda at: write_json(at / RECORD, record))

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", backbone: str | None = None
    ) -> ProbeJudge:
        """Read an export; needs neither scikit-learn nor torch.

        Args:
            path: What ``export`` wrote.
            device: ``auto`` or ``cpu``.
            backbone: ``None``: it has none.

        Raises:
            InputError: If the record is damaged, it has other features, or another device or a
                backbone was asked for.
        """
        folder = Path(path)
        check_runs_on_cpu(folder, device, backbone)
        values = read_record(folder)
        try:
            weights = dict(values["weights"])
            if values["features"] != VERSION or tuple(weights) != PROBE_NAMES:
                raise InputError(
                    f"the judge in {folder} was trained on other features than this version has: "
                    "train it again."
                )
            rule_from_json(values["prefix_rule"])
            judge = cls(
                np.array(list(weights.values()), dtype=np.float64),
                float(values["bias"]),
                calibration=calibration_from_json(values["calibration"]),
                name=values["name"],
                seen_questions=frozenset(values["seen_questions"]),
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(folder, error) from error
        judge._path = folder
        return judge

    def _weights(self) -> dict[str, float]:
        return dict(zip(PROBE_NAMES, self.weights.tolist(), strict=True))


class _Histories:
    """The answers of n prefixes at their checkpoints, as they stand there, shape ``(n, M)``."""

    def __init__(self, prefixes: Sequence[Prefix]) -> None:
        given = [[one.answer_class for one in p.forced_answers] for p in prefixes]
        self._n = np.array([len(classes) for classes in given], dtype=np.int64)
        width = max(1, int(self._n.max(initial=0)))
        self._answer: IntArray = np.full((len(prefixes), width), NO_ANSWER, dtype=np.int64)
        for row, classes in enumerate(given):
            self._answer[row, : len(classes)] = classes
        self._answered = _share((self._answer != NO_ANSWER).sum(1), self._n)
        checkpoint = np.arange(width)
        latest = np.where(self._answer != NO_ANSWER, checkpoint, 0)
        self._answer = np.take_along_axis(self._answer, np.maximum.accumulate(latest, 1), 1)
        self._latest = self._answer[:, -1]
        differs = (self._answer != self._latest[:, None]) & (checkpoint < self._n[:, None])
        last_other = np.where(differs, checkpoint, -1).max(1)
        self._run = np.where(self._latest != NO_ANSWER, self._n - 1 - last_other, 0)
        self._shares = self._answer_shares(prefixes)

    def compare(self, ends: IntArray) -> FloatArray:
        """Features of pairs of rows, shape ``(P, 2)`` -> ``(P, F)``."""
        first, second = ends.T
        n = np.maximum(self._n[first], self._n[second])
        checkpoint = np.arange(self._answer.shape[1])
        same = self._answer[first] == self._answer[second]
        same &= (self._answer[first] != NO_ANSWER) & (checkpoint < n[:, None])
        has_answers = (self._latest[ends] != NO_ANSWER).all(1)
        agree = has_answers & (self._latest[first] == self._latest[second])
        columns = [
            agree,
            has_answers & ~agree,
            _share((same & (checkpoint >= n[:, None] - 3)).sum(1), np.minimum(n, 3)),
            _share(same.sum(1), n),
            self._shares[first].multiply(self._shares[second]).sum(axis=1),
        ]
        elsewhere = np.column_stack(
            [self._found(a, b) for a, b in ((first, second), (second, first))]
        )
        for fact in (elsewhere, self._run[ends], self._answered[ends], self._n[ends]):
            columns += [fact.min(1), fact.max(1)]
        return np.column_stack(columns).astype(np.float64)

    def _found(self, rows: IntArray, others: IntArray) -> FloatArray:
        """Share of the checkpoints of ``others`` that have the latest answer of ``rows``."""
        latest = self._latest[rows, None]
        is_there = np.arange(self._answer.shape[1]) < self._n[others, None]
        return _share(
            ((self._answer[others] == latest) & is_there & (latest != NO_ANSWER)).sum(1),
            self._n[others],
        )

    def _answer_shares(self, prefixes: Sequence[Prefix]) -> csr_array:
        """Share of a prefix's checkpoints at each answer of its question; a column an answer."""
        row, checkpoint = np.nonzero(
            (self._answer != NO_ANSWER) & (np.arange(self._answer.shape[1]) < self._n[:, None])
        )
        number: dict[tuple[str, str], int] = {}
        questions = [p.trace.question.key for p in prefixes]
        question = np.array([number.setdefault(q, len(number)) for q in questions], dtype=np.int64)
        answers = np.column_stack([question[row], self._answer[row, checkpoint]])
        names, column = np.unique(answers, axis=0, return_inverse=True)
        return csr_array(
            (1 / self._n[row], (row, column)), shape=(len(prefixes), max(1, len(names)))
        )


def _share(part: IntArray, whole: IntArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
