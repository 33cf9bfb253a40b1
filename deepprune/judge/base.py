"""The judge: scores for pairs of prefixes, what they cost, and a fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepprune.core.protocols import TEXT_ALONE, BoolArray, FloatArray, Need
from deepprune.core.types import Prefix, TracePair

UNKNOWN = " (training unknown)"
"""Follows the name of a judge whose training questions are not known: none can be excluded."""


class Prices(NamedTuple):
    """Cost of each of n pairs or prefixes on its own, shapes ``(n,)``."""

    tokens: FloatArray
    flops: FloatArray

    @classmethod
    def none(cls, n: int) -> Prices:
        """Return zero tokens and FLOPs for each of n pairs or prefixes."""
        return cls(np.zeros(n), np.zeros(n))


@dataclass(frozen=True, slots=True)
class JudgeProvenance:
    """Identity of a judge, and the questions that it must not be evaluated on.

    Attributes:
        name: Name in tables.
        fingerprint: Identifies the scoring function in the score cache; ``None`` where a score
            depends on more than the two prefixes (oracle, coin), which is then never cached.
        seen_questions: Hashes of the normalised texts of questions used for fitting it (see
            ``data.splits``).
        path: Its export folder; ``None`` for a judge that was not read from one.
    """

    name: str
    fingerprint: str | None
    seen_questions: frozenset[str] = field(default_factory=frozenset)
    path: Path | None = None


class Judge(ABC):
    """Scores pairs of prefixes: the probability that both traces end in the same answer.

    Its bill is the sum over the distinct pairs (`pair_prices`), over the distinct prefixes that
    they are made of (`prefix_prices`), and over those of the pairs that a second judge reads
    (`sends`, `second_prices`), as if nothing were cached.
    """

    is_symmetric: bool = False
    """True where swapping a pair never changes its score."""

    is_model: bool = False
    """True where scoring runs a neural network: scores are kept on disk, and one process scores by
    default."""

    needs: frozenset[Need] = TEXT_ALONE
    """Parts of the traces that it reads. Forced answers are on the generator's bill."""

    reads_peers: bool = False
    """True where a score also depends on the peers of the prefixes (``types.Peers``): it is then
    valid only for these traces, and not cached."""

    @property
    @abstractmethod
    def provenance(self) -> JudgeProvenance:
        """Name, fingerprint and training questions."""

    @abstractmethod
    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Return scores in [0, 1], shape ``(len(pairs),)``.

        Equal pairs and fingerprints have equal scores; those of a neural network are equal up to
        rounding, which depends on the other pairs of a batch.
        """

    def pair_prices(self, pairs: Sequence[TracePair]) -> Prices:
        """Return the cost of each pair, by default zero."""
        return Prices.none(len(pairs))

    def prefix_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        """Return the cost of each prefix, however many pairs it is in; by default zero."""
        return Prices.none(len(prefixes))

    def sends(self, pairs: Sequence[TracePair]) -> BoolArray:
        """Return which pairs go to a second judge as well, shape ``(len(pairs),)``: here none."""
        return np.zeros(len(pairs), dtype=bool)

    def second_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        """Return the cost of each prefix of a pair that is sent to the second judge."""
        return Prices.none(len(prefixes))

    def prepare(self, sample: Callable[[], Sequence[TracePair]] | None) -> dict[str, float]:
        """Fit the judge to the run before it scores; by default do nothing.

        Args:
            sample: Makes a seeded sample of the run's pairs; ``None`` where traces are generated.

        Returns:
            The chosen values, for the record of the run.

        Raises:
            InputError: If a sample is needed and there is none.
        """
        return {}
