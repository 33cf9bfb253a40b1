"""Logits, calibration, export and reading back of trained judges."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError

from deepprune.core.errors import InputError
from deepprune.core.protocols import FloatArray
from deepprune.core.types import PrefixRule, TracePair
from deepprune.data.pairs import labels_of, questions_of
from deepprune.judge.base import UNKNOWN, Judge, JudgeProvenance
from deepprune.judge.calibration import IDENTITY, fit_calibration, is_flat
from deepprune.judge.saved import (
    WEIGHTS,
    SavedJudge,
    check_files,
    damaged,
    find_backbone,
    read_record,
    write_judge,
)

_log = logging.getLogger(__name__)


class TrainedJudge(Judge):
    """A judge that was fitted on labelled pairs.

    Args:
        name: Name in tables.
        seen_questions: Hashes of the questions used for fitting it.

    Attributes:
        calibration: Logits to scores; the identity until `calibrate` is called.
    """

    kind: ClassVar[str]

    def __init__(self, *, name: str, seen_questions: frozenset[str] = frozenset()) -> None:
        self.calibration = IDENTITY
        self._name, self._seen = name, seen_questions
        self._path: Path | None = None

    @abstractmethod
    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Return uncalibrated logits, shape ``(len(pairs),)``."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON values from which ``_from_record`` builds the model."""

    def _identity(self) -> str:
        """Identify everything that logits depend on; override it where files hold weights."""
        return json.dumps([self.kind, self.settings])

    def _write_files(self, folder: Path) -> None:
        """Write weights, and other files that ``_from_record`` reads, if there are any."""

    @classmethod
    def _from_record(cls, folder: Path, record: SavedJudge, device: str, **settings: Any) -> Self:
        """Build the judge of a record whose files have been checked."""
        return cls(**record.settings, name=record.name, **settings)

    @property
    def provenance(self) -> JudgeProvenance:
        state = f"{self._identity()}{json.dumps(self.calibration.to_json())}"
        fingerprint = hashlib.blake2b(state.encode(), digest_size=16).hexdigest()
        name = self._name if self._seen else f"{self._name}{UNKNOWN}"
        return JudgeProvenance(name, fingerprint, self._seen, self._path)

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        return self.calibration(self.logits(pairs))

    def calibrate(
        self,
        pairs: Sequence[TracePair],
        *,
        logits: FloatArray | None = None,
        same_share: float | None = None,
    ) -> None:
        """Fit the calibration on labelled pairs and use it from now on, see `fit_calibration`.

        Args:
            pairs: Validation pairs, never test; finished and unfinished, as a policy meets them.
            logits: Those of ``pairs``, shape ``(P,)``; ``None`` computes them.
            same_share: Share of "same" among all pairs, where it is known.
        """
        logits = self.logits(pairs) if logits is None else logits
        questions = questions_of(pairs)
        self.calibration = fit_calibration(
            logits, labels_of(pairs), questions, same_share=same_share
        )
        self._path = None  # the folder holds another calibration
        if is_flat(self.calibration(logits)):
            _log.warning(
                "the scores of %s are nearly all alike on the validation pairs (%d questions): "
                "they order pairs, but no threshold between 0 and 1 tells them apart. The judge "
                "has learnt little, or needs more validation questions (data.fractions).",
                self._name,
                len(set(questions)),
            )

    def export(
        self,
        folder: Path | str,
        *,
        prefix_rule: PrefixRule | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the folder that ``load`` reads, atomically.

        Keeps the rule of the training prefixes and JSON values about the training.

        Raises:
            InputError: If the folder exists.
        """
        record = SavedJudge(
            kind=self.kind,
            name=self._name,
            needs=self.needs,
            settings=self.settings,
            calibration=self.calibration,
            prefix_rule=prefix_rule,
            seen_questions=self._seen,
            training=dict(training or {}),
            fingerprint=str(self.provenance.fingerprint),
        )
        return write_judge(Path(folder), record, self._write_files)

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", backbone: str | None = None, **settings: Any
    ) -> Self:
        """Read an export of this kind; ``loading.load_judge`` reads any.

        Args:
            path: A folder that ``export`` wrote.
            device: Device of a neural network: ``auto`` or a torch device.
            backbone: The folder of a backbone that the export lacks, see `find_backbone`.
            settings: Further arguments of the class.

        Raises:
            InputError: If files or the backbone are missing or changed.
        """
        folder = Path(path)
        record = read_record(folder)
        try:
            record = find_backbone(folder, record, backbone)
            check_files(folder, record)
            judge = cls._from_record(folder, record, device, **settings)
        except InputError:
            raise
        except SafetensorError as error:
            raise InputError(
                f"{folder / WEIGHTS} must be a safetensors file ({error}): export again."
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(folder, error) from error
        judge.calibration, judge._path = record.calibration, folder
        judge._name, judge._seen = record.name, record.seen_questions
        return judge
