"""What all trained judges share: logits, a calibration of them, where they were read from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from deepprune.data.pairs import labels_of
from deepprune.judge.base import Judge
from deepprune.judge.calibration import Calibration, fit_calibration
from deepprune.protocols import FloatArray
from deepprune.types import TracePair


class TrainedJudge(Judge):
    """A judge that was fitted on labelled pairs.

    Args:
        calibration: Logits to scores; the identity where ``None``.
        name: Short name for tables.
        seen_questions: Hashes of the questions used for fitting it.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        *,
        name: str,
        seen_questions: frozenset[str] = frozenset(),
    ) -> None:
        self.calibration = calibration or Calibration()
        self._name, self._seen = name, seen_questions
        self._path: Path | None = None

    @abstractmethod
    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Uncalibrated logits, shape ``(len(pairs),)``."""

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Calibrated probabilities of "same answer", shape ``(len(pairs),)``."""
        return self.calibration(self.logits(pairs))

    def calibrate(self, pairs: Sequence[TracePair]) -> Calibration:
        """Fit the calibration on labelled pairs (validation, never test) and use it from now on."""
        self.calibration = fit_calibration(self.logits(pairs), labels_of(pairs))
        return self.calibration
