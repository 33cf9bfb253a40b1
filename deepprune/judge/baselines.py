"""Judges without training to compare others with: lexical overlap, lengths, oracle and coin."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from scipy.special import expit, ndtri

from deepprune.core.options import Gt, Lt, checked
from deepprune.core.protocols import FloatArray, Need
from deepprune.core.types import NO_ANSWER, Question, TracePair
from deepprune.judge.base import Judge, JudgeProvenance

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
NUMBER = r"\d+(?:\.\d+)?"
_NUMBER = re.compile(NUMBER)
_DELIMITER = re.compile(r"[$]|\\[()\[\],;!]")
_SIGN = r"(?:[-+*/^=\u00d7\u00f7\u00b7]|\\times|\\cdot|\\div)"
_SPACED_SIGN = re.compile(rf"\s*({_SIGN})\s*")
_OPERAND = r"\(?-?\d+(?:\.\d+)?\)?"
_EQUATION = re.compile(rf"{_OPERAND}(?:{_SIGN}{_OPERAND})*={_OPERAND}")
_NO_EVIDENCE = 0.5
_CACHED_PREFIXES = 65_536


def without_thousands(text: str) -> str:
    """Remove thousands separators: 1,200 becomes 1200."""
    return _THOUSANDS.sub("", text)


def find_numbers(text: str) -> list[str]:
    """Return the numbers of a text in order, without signs and thousands separators."""
    return _NUMBER.findall(without_thousands(text))


def find_equations(text: str) -> list[str]:
    """Return the number-only equations of a text in order, without spaces and delimiters.

    >>> find_equations("so $3 + 4 = 7$, and 2x = 14")
    ['3+4=7']
    """
    formula = _SPACED_SIGN.sub(r"\1", _DELIMITER.sub(" ", without_thousands(text)))
    return [equation.strip("()") for equation in _EQUATION.findall(formula)]


class LexicalJudge(Judge):
    """Overlap of numbers and equations, the baseline that a trained judge has to beat.

    The score is the mean of two Jaccard indices ``|A & B| / |A | B|``, one for the numbers of the
    two prefixes and one for their number-only equations (``12+3=15``). An index is skipped if
    neither prefix has any; without both the score is 0.5. It costs no FLOPs.
    """

    is_symmetric = True
    provenance = JudgeProvenance("lexical", fingerprint="lexical-v1")

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        return _each(
            pairs, lambda pair: _overlap(_features(pair.first.text), _features(pair.second.text))
        )


class LengthOnlyJudge(Judge):
    """Similarity of two prefixes in length alone: characters of the shorter over the longer.

    The score is 1 if both are empty. For prefixes with the same number of tokens it compares
    characters per token.
    """

    is_symmetric = True
    provenance = JudgeProvenance("length only", fingerprint="length-only-v1")

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        lengths = [sorted((len(pair.first.text), len(pair.second.text))) for pair in pairs]
        return np.array([low / high if high else 1.0 for low, high in lengths], dtype=np.float64)


class QuestionOnlyJudge(Judge):
    """Difficulty of the question alone, from the labels of its traces.

    Every pair of a question gets the fraction of "same" among all pairs of the traces in the call.
    Its pooled AUROC is the value of knowing the difficulty of questions; its within-question AUROC
    is 1/2. Use it only in reports, which score all pairs of a question in one call; a sweep scores
    a few pairs at a time.
    """

    is_symmetric = True
    provenance = JudgeProvenance("question only (labels)", fingerprint=None)

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        answers: defaultdict[Question, dict[object, int]] = defaultdict(dict)
        for pair in pairs:
            for trace in (pair.first.trace, pair.second.trace):
                answers[trace.question][trace.key] = trace.answer_class
        share = {question: _agreement(list(a.values())) for question, a in answers.items()}
        return _each(pairs, lambda pair: share[pair.first.trace.question])


class OracleJudge(Judge):
    """The true label: 1 if both traces end in the same answer, else 0.

    Traces without an answer are never the same: a cluster of them could be the largest of a
    question and have no vote.
    """

    is_symmetric = True
    needs: frozenset[Need] = frozenset()
    provenance = JudgeProvenance("oracle", fingerprint=None)

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        return _each(pairs, lambda pair: float(pair.label or 0))


class CoinJudge(Judge):
    """A random score, uniform in [0, 1).

    It depends only on seed, question, models and sample numbers, not on the order of calls or of
    the pair; longer prefixes of the same traces get the same score.

    Args:
        seed: Decides all scores.
    """

    is_symmetric = True
    needs: frozenset[Need] = frozenset()
    provenance = JudgeProvenance("coin", fingerprint=None)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        return _each(pairs, self._toss)

    def _toss(self, pair: TracePair) -> float:
        names = sorted("\x1f".join(map(str, p.trace.key)) for p in (pair.first, pair.second))
        key = "\x1e".join((str(self.seed), *names)).encode("utf-8", "surrogatepass")
        return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 11) / 2**53


@checked
class NoisyOracleJudge(CoinJudge):
    """The true label with Gaussian noise: a judge of any AUROC, to measure what accuracy gains.

    Its evidence is ``z = d y + noise`` with y = 1 if both traces end in the same answer, and ``d =
    sqrt(2) Phi^-1(auroc)`` (binormal, equal variances); the score is the probability of y = 1 given
    z and equal priors. The noise of a pair depends on the seed as in `CoinJudge` and does not
    decrease with longer prefixes. Unlike that of a real judge, it is independent between pairs.

    Args:
        auroc: Area under its ROC curve, within and across questions.
        seed: Decides all noise.
    """

    def __init__(self, auroc: Annotated[float, Gt(0.5), Lt(1)] = 0.7, seed: int = 0) -> None:
        super().__init__(seed)
        self.provenance = JudgeProvenance(f"oracle {auroc:g}", fingerprint=None)
        self._shift = 2**0.5 * float(ndtri(auroc))

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        noise = ndtri(np.clip(super().score(pairs), 1e-12, 1 - 1e-12))
        label = _each(pairs, lambda pair: float(pair.label or 0))
        evidence = self._shift * label + noise
        scores: FloatArray = expit(self._shift * (evidence - self._shift / 2))
        return scores


def _each(pairs: Sequence[TracePair], value: Callable[[TracePair], float]) -> FloatArray:
    return np.fromiter((value(pair) for pair in pairs), dtype=np.float64, count=len(pairs))


def _agreement(answer_classes: Sequence[int]) -> float:
    """Return the fraction of pairs of answers that are the same; a missing answer never is."""
    sizes = Counter(c for c in answer_classes if c != NO_ANSWER).values()
    return sum(n * (n - 1) for n in sizes) / (len(answer_classes) * (len(answer_classes) - 1))


def _overlap(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> float:
    indices = [len(a & b) / len(a | b) for a, b in zip(first, second, strict=True) if a or b]
    return sum(indices) / len(indices) if indices else _NO_EVIDENCE


@functools.lru_cache(maxsize=_CACHED_PREFIXES)
def _features(text: str) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(find_numbers(text)), frozenset(find_equations(text))
