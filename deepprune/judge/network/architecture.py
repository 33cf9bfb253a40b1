"""The protocol of a judge that ``train.py`` trains."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from deepprune.core.protocols import Need
from deepprune.data.loader import PairEncoding, PairInputs
from deepprune.judge.trained import TrainedJudge


class Architecture(Protocol):
    """Kind of judge over pairs, e.g. the cross-encoder or the linear judge."""

    @property
    def name(self) -> str:
        """Name of the judge in tables."""

    @property
    def needs(self) -> frozenset[Need]:
        """Needs of the judge: text, forced answers."""

    @property
    def shares_heads(self) -> bool:
        """Whether pairs of one representative cost less when they are read together."""

    @property
    def encoding(self) -> PairEncoding:
        """Encoder of pairs as inputs; making it reads a tokenizer, but no trained weights."""

    def build(self, inputs: PairInputs | None = None) -> nn.Module:
        """Build the model before its training; ``inputs`` are those of the training pairs."""

    def judge(self, model: nn.Module, seen_questions: frozenset[str]) -> TrainedJudge:
        """Return the judge of a trained model, not yet calibrated."""
