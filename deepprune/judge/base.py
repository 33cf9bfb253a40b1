"""What a judge is: scores for pairs of prefixes, their cost, and a fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepprune.protocols import FloatArray
from deepprune.types import TracePair


@dataclass(frozen=True, slots=True)
class JudgeCost:
    """What scoring some pairs costs from scratch: pairs, tokens read, FLOPs."""

    calls: int = 0
    tokens: int = 0
    flops: float = 0.0

    def __add__(self, other: JudgeCost) -> JudgeCost:
        return JudgeCost(
            self.calls + other.calls, self.tokens + other.tokens, self.flops + other.flops
        )


@dataclass(frozen=True, slots=True)
class JudgeProvenance:
    """What an evaluation must know of a judge before it may use it.

    Attributes:
        name: Short name for tables.
        fingerprint: Identifies the scoring function in the score cache; ``None`` where a score
            depends on more than the two prefixes (oracle, coin), which is then never cached.
        seen_questions: Hashes of the normalised texts of questions used for fitting it (see
            ``data.splits``).
        path: Its export folder, where it has one.
    """

    name: str
    fingerprint: str | None
    seen_questions: frozenset[str] = field(default_factory=frozenset)
    path: Path | None = None


class Judge(ABC):
    """Scores pairs of prefixes: the probability that both traces end in the same answer."""

    is_symmetric: bool = False
    """True where swapping a pair never changes its score."""

    @property
    @abstractmethod
    def provenance(self) -> JudgeProvenance:
        """Name, fingerprint and the questions it has seen."""

    @abstractmethod
    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Scores in [0, 1], shape ``(len(pairs),)``; deterministic for a fingerprint."""

    @abstractmethod
    def cost(self, pairs: Sequence[TracePair]) -> JudgeCost:
        """What ``score`` costs on these pairs when nothing is cached, without scoring them."""

    @staticmethod
    def load(path: Path | str, device: str = "auto", backbone: str | None = None) -> Judge:
        """Read a trained judge from the folder that training exported; needs no Lightning."""
        from deepprune.judge.cross_encoder import CrossEncoderJudge  # torch is imported only here

        return CrossEncoderJudge.load(path, device, backbone=backbone)
