"""A judge's scores of labelled pairs, with the columns that metrics need."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepprune.core.files import write_atomic
from deepprune.core.protocols import BoolArray, FloatArray, IntArray
from deepprune.core.types import TracePair
from deepprune.data.pairs import labels_of
from deepprune.judge.measure.metrics import judge_metrics

UNFINISHED = "_unfinished"
"""Suffix of metrics on those pairs of which neither trace has finished."""


@dataclass(frozen=True, slots=True)
class PairScores:
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
        columns = [part.columns() for part in parts]
        return cls(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})

    def unfinished(self) -> PairScores:
        """Keep the pairs of which neither trace has finished."""
        return self.select(self.is_unfinished)

    def select(self, is_chosen: BoolArray) -> PairScores:
        """Keep the chosen pairs; ``is_chosen`` has shape ``(P,)``."""
        return PairScores(*(column[is_chosen] for column in self.columns().values()))

    def columns(self) -> dict[str, Any]:
        """The arrays by name."""
        return asdict(self)

    @property
    def group(self) -> NDArray[Any]:
        """Question and model of each pair, within which pairs are ranked, shape ``(P,)``."""
        return np.char.add(np.char.add(self.question, "\n"), self.model)

    def metric(self, name: str) -> float:
        """A judge metric such as ``auroc_within_unfinished``; ``nan`` where it is undefined."""
        chosen = self.unfinished() if name.endswith(UNFINISHED) else self
        metrics = judge_metrics(chosen.scores, chosen.labels, chosen.group)
        return metrics[name.removesuffix(UNFINISHED)]

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self.columns())
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> PairScores:
        with np.load(path, allow_pickle=False) as archive:
            return cls(**archive)
