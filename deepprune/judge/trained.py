"""What all trained judges share: logits, a calibration of them, where they were read from."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepprune.core.protocols import FloatArray
from deepprune.core.types import PrefixRule, TracePair
from deepprune.data.pairs import labels_of, questions_of
from deepprune.judge.base import Judge
from deepprune.judge.calibration import IDENTITY, Calibration, fit_calibration, is_flat

_log = logging.getLogger(__name__)


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
        self.calibration = calibration or IDENTITY
        self._name, self._seen = name, seen_questions
        self._path: Path | None = None

    @abstractmethod
    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Uncalibrated logits, shape ``(len(pairs),)``."""

    @abstractmethod
    def export(
        self,
        folder: Path | str,
        *,
        prefix_rule: PrefixRule | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the folder that ``load_judge`` reads."""

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Calibrated probabilities of "same answer", shape ``(len(pairs),)``."""
        return self.calibration(self.logits(pairs))

    def calibrate(
        self,
        pairs: Sequence[TracePair],
        method: str = "platt",
        *,
        same_share: float | None = None,
    ) -> Calibration:
        """Fit the calibration on labelled pairs (validation, never test) and use it from now on.

        Args:
            pairs: As a pruning policy meets them, finished and unfinished ones.
            method: See ``fit_calibration``.
            same_share: See ``fit_calibration``.
        """
        logits = self.logits(pairs)
        questions = questions_of(pairs)
        self.calibration = fit_calibration(
            logits, labels_of(pairs), questions, method=method, same_share=same_share
        )
        self._path = None  # it is no longer what lies there
        if is_flat(self.calibration(logits)):
            _log.warning(
                "the scores of %s are nearly all alike on the validation pairs (%d questions): "
                "they order pairs, but no threshold between 0 and 1 tells them apart. The judge "
                "has learnt little, or needs more validation questions (data.fractions).",
                self._name,
                len(set(questions)),
            )
        return self.calibration
