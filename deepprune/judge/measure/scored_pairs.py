"""A judge's scores of labelled pairs, with the columns that metrics need."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepprune.core.files import write_atomic
from deepprune.core.protocols import BoolArray, FloatArray, IntArray
from deepprune.core.types import TracePair
from deepprune.data.pairs import labels_of
from deepprune.judge.measure.metrics import judge_metrics

UNFINISHED = "_unfinished"
"""Suffix of metrics on those pairs of which neither trace has finished."""


class PairScores(NamedTuple):
    """Scores of P pairs.

    Attributes:
        scores: In [0, 1], shape ``(P,)``.
        labels: 1 or 0, shape ``(P,)``.
        question: Name of the question, shape ``(P,)``.
        model: Model of the first trace, shape ``(P,)``.
        is_unfinished: Whether neither trace has finished, shape ``(P,)``.
    """

    scores: FloatArray
    labels: IntArray
    question: NDArray[Any]
    model: NDArray[Any]
    is_unfinished: BoolArray

    @classmethod
    def of(cls, pairs: Sequence[TracePair], scores: FloatArray) -> PairScores:
        """Label the scores of ``pairs``, shape ``(P,)``."""
        traces = [pair.first.trace for pair in pairs]
        return cls(
            np.asarray(scores, dtype=np.float64),
            labels_of(pairs),
            np.array([f"{t.question.dataset}/{t.question.question_id}" for t in traces], dtype=str),
            np.array([t.model for t in traces], dtype=str),
            np.array([pair.is_unfinished for pair in pairs], dtype=np.bool_),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[PairScores]) -> PairScores:
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def select(self, is_chosen: BoolArray) -> PairScores:
        """Keep the chosen pairs; ``is_chosen`` has shape ``(P,)``."""
        columns: Any = self
        return PairScores(*(column[is_chosen] for column in columns))

    def unfinished(self) -> PairScores:
        """Keep the pairs of which neither trace has finished."""
        return self.select(self.is_unfinished)

    @property
    def group(self) -> NDArray[Any]:
        """Question and model of each pair, within which pairs are ranked, shape ``(P,)``."""
        return np.char.add(np.char.add(self.question, "\n"), self.model)

    def metric(self, name: str) -> float:
        """Compute a judge metric such as ``auroc_within_unfinished``; ``nan`` where undefined."""
        chosen = self.unfinished() if name.endswith(UNFINISHED) else self
        metrics = judge_metrics(chosen.scores, chosen.labels, chosen.group)
        return metrics[name.removesuffix(UNFINISHED)]

    def histogram(self, n_bins: int = 20) -> list[dict[str, float]]:
        """Count pairs by score and label, all and unfinished ones, one row per bin of scores."""
        ends = np.linspace(0, 1, n_bins + 1)
        rows = [{"score_low": low, "score_high": high} for low, high in pairwise(ends.tolist())]
        for label, name in enumerate(("different", "same")):
            for chosen, suffix in ((self, ""), (self.unfinished(), UNFINISHED)):
                counts, _ = np.histogram(chosen.scores[chosen.labels == label], ends)
                for row, count in zip(rows, counts.tolist(), strict=True):
                    row[name + suffix] = count
        return rows

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self._asdict())
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> PairScores:
        with np.load(path, allow_pickle=False) as archive:
            return cls(**archive)
