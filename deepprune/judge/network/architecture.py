"""The protocol of a judge that ``train.py`` trains."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from deepprune.core.protocols import Need
from deepprune.data.loader import PairEncoding, PairInputs
from deepprune.judge.trained import TrainedJudge


class Architecture(Protocol):
    """A kind of judge over pairs: the cross-encoder and the linear judge."""

    @property
    def name(self) -> str:
        """Name of the judge in tables."""

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads of the traces."""

    @property
    def encoding(self) -> PairEncoding:
        """How pairs become its inputs; reads the tokenizer, no weights that are trained."""

    def build(self, inputs: PairInputs | None = None) -> nn.Module:
        """The model before its training; ``inputs`` are those of the training pairs."""

    def judge(self, model: nn.Module, seen_questions: frozenset[str]) -> TrainedJudge:
        """The judge of a trained model, not yet calibrated."""
