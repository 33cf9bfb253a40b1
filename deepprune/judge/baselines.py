"""Judges that learn nothing: shared numbers, the truth, a coin. What a trained judge must beat."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from deepprune.judge.base import Judge, JudgeCost, JudgeProvenance
from deepprune.protocols import FloatArray
from deepprune.types import Trace, TracePair

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_DELIMITER = re.compile(r"[$]|\\[()\[\],;!]")
_SIGN = r"(?:[-+*/^=\u00d7\u00f7\u00b7]|\\times|\\cdot|\\div)"
_SPACED_SIGN = re.compile(rf"\s*({_SIGN})\s*")
_OPERAND = r"\(?-?\d+(?:\.\d+)?\)?"
_EQUATION = re.compile(rf"{_OPERAND}(?:{_SIGN}{_OPERAND})*={_OPERAND}")
_NO_EVIDENCE = 0.5
_CACHED_PREFIXES = 65_536


class _Features(NamedTuple):
    numbers: frozenset[str]
    equations: frozenset[str]


class LexicalJudge(Judge):
    """Shared numbers and equations: the line a trained judge has to beat.

    Of either kind of feature the Jaccard index ``|A & B| / |A | B|`` of the two prefixes' sets; the
    score is the mean over the kinds that at least one of the prefixes has, and 0.5 where neither
    has any. Equations are number-only (``12+3=15``), without spaces. It costs no FLOPs.
    """

    is_symmetric = True

    @property
    def provenance(self) -> JudgeProvenance:
        """Nothing was fitted, so it has seen no question."""
        return JudgeProvenance("lexical", fingerprint="lexical-v1")

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Scores in [0, 1], shape ``(len(pairs),)``."""
        return _each(pairs, lambda pair: _overlap(pair.first.text, pair.second.text))

    def cost(self, pairs: Sequence[TracePair]) -> JudgeCost:
        """Calls only."""
        return JudgeCost(calls=len(pairs))


class OracleJudge(Judge):
    """The truth: 1 where both traces end in the same answer, else 0.

    A trace without an answer ends in the same answer as no other: were such traces a cluster, the
    largest of a question could have no vote.
    """

    is_symmetric = True

    @property
    def provenance(self) -> JudgeProvenance:
        """No fingerprint: its scores do not follow from the prefixes."""
        return JudgeProvenance("oracle", fingerprint=None)

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        """1.0 or 0.0, shape ``(len(pairs),)``."""
        return _each(pairs, lambda pair: float(pair.label or 0))

    def cost(self, pairs: Sequence[TracePair]) -> JudgeCost:
        """Calls only."""
        return JudgeCost(calls=len(pairs))


class CoinJudge(Judge):
    """Chance: a score drawn uniformly from [0, 1), fixed by the seed and the two traces.

    It is a pure function of seed, question, models and sample numbers, whatever the order of pairs,
    of calls or within a pair; longer prefixes of the same traces get the same score.

    Args:
        seed: Decides all scores.
    """

    is_symmetric = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @property
    def provenance(self) -> JudgeProvenance:
        """No fingerprint: its scores do not follow from the prefixes."""
        return JudgeProvenance("coin", fingerprint=None)

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Uniform scores, shape ``(len(pairs),)``."""
        return _each(pairs, self._toss)

    def cost(self, pairs: Sequence[TracePair]) -> JudgeCost:
        """Calls only."""
        return JudgeCost(calls=len(pairs))

    def _toss(self, pair: TracePair) -> float:
        names = sorted(_identity(prefix.trace) for prefix in (pair.first, pair.second))
        key = "\x1e".join((str(self.seed), *names)).encode("utf-8", "surrogatepass")
        return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 11) / 2**53


def _identity(trace: Trace) -> str:
    question = trace.question
    return "\x1f".join((question.dataset, question.question_id, trace.model, str(trace.sample_id)))


def _each(pairs: Sequence[TracePair], value: Callable[[TracePair], float]) -> FloatArray:
    return np.fromiter((value(pair) for pair in pairs), dtype=np.float64, count=len(pairs))


def _overlap(first: str, second: str) -> float:
    overlaps = [
        len(a & b) / len(a | b)
        for a, b in zip(_features(first), _features(second), strict=True)
        if a or b
    ]
    return sum(overlaps) / len(overlaps) if overlaps else _NO_EVIDENCE


@functools.lru_cache(maxsize=_CACHED_PREFIXES)
def _features(text: str) -> _Features:
    text = _THOUSANDS.sub("", text)
    formula = _SPACED_SIGN.sub(r"\1", _DELIMITER.sub(" ", text))
    return _Features(
        frozenset(_NUMBER.findall(text)),
        frozenset(equation.strip("()") for equation in _EQUATION.findall(formula)),
    )
