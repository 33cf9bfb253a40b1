"""Question-disjoint splits, by the text of the question."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.seeding import generator
from deepprune.core.types import QuestionTraces

NEAR_DUPLICATE = 0.9
"""Least ``question_similarity`` of two questions that count as the same."""

_NUMBER = r"\d+(?:\.\d+)?"
_SIGN = r"[+*/^=<>\u00d7\u00f7]|-(?=\s?[\d(])"
_WORD = re.compile(rf"{_NUMBER}|{_SIGN}|\\?[^\W\d_]+|[^\w\s]")
_FACT = re.compile(rf"{_NUMBER}|{_SIGN}")
_SHINGLE = 3  # words


def normalise_question(text: str) -> str:
    """Normalise to Unicode NFKC, lower case, single spaces, without punctuation at the end.

    Numbers and operators stay, because sums differ in nothing else.

    >>> normalise_question("What is  2 + 2?")
    'what is 2 + 2'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(" .?!:;,")


def question_hash(text: str) -> str:
    """Identify a question across datasets: blake2b of the normalised text, 32 hex digits."""
    return hashlib.blake2b(normalise_question(text).encode(), digest_size=16).hexdigest()


def question_similarity(first: str, second: str) -> float:
    """Return the Jaccard index of the multisets of three-word runs of two questions, in [0, 1].

    It is 0 if the questions differ in their sequence of numbers and arithmetic signs: sums from one
    template share everything else and yet are different questions.
    """
    facts, runs = _shingles(first)
    other_facts, other_runs = _shingles(second)
    return (runs & other_runs).total() / (runs | other_runs).total() if facts == other_facts else 0


@dataclass(frozen=True, slots=True)
class Splits:
    """Question-disjoint parts of a store.

    Attributes:
        train: Groups for fitting.
        val: Groups for choosing a checkpoint and for calibration.
        test: Groups for reporting.
    """

    train: tuple[QuestionTraces, ...]
    val: tuple[QuestionTraces, ...]
    test: tuple[QuestionTraces, ...]

    def seen_questions(self) -> frozenset[str]:
        """Return the hashes of the training and validation questions."""
        return frozenset(question_hash(g.question.text) for g in (*self.train, *self.val))


def split_questions(
    groups: Sequence[QuestionTraces],
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    *,
    holdout_models: Iterable[str] = (),
    fold: int = 0,
    seed: int = 0,
) -> Splits:
    """Split questions into train, validation and test, by their normalised text.

    Questions with the same text stay together. A positive fraction gets at least one question.

    Args:
        groups: Traces of questions, of one or more models.
        fractions: Fractions of the questions for train, validation and test; they sum to 1.
        holdout_models: Models whose traces form the test part alone: neither the model nor the
            question was then seen in training.
        fold: Number of the cross-validation fold, below 1 / (test fraction). With a fraction of 1/5
            the test parts of folds 0 to 4 are disjoint and cover all questions.
        seed: Decides the order of the questions.

    Raises:
        ValueError: If ``fractions`` are not three numbers that sum to 1, or ``fold`` is too large.
        InputError: If a question has only one trace, there are too few questions, a
            held-out model is unknown, or near-duplicates fall into different parts.
    """
    _check_split(groups, fractions, fold)
    holdout, known = set(holdout_models), {group.model for group in groups}
    if unknown := sorted(holdout - known):
        raise InputError(
            f"holdout_models must be models of the store, got {unknown}; there are {sorted(known)}."
        )
    texts = sorted({normalise_question(group.question.text) for group in groups})
    if len(texts) < sum(f > 0 for f in fractions):
        raise InputError(
            f"a split into train, validation and test needs a question for each, got {len(texts)}."
        )
    order = generator(seed, "split").permutation(len(texts))
    # Test questions come last; each fold moves the questions before them to the end.
    shift, after = (round(f * fractions[2] * len(texts)) for f in (fold, fold + 1))
    sizes = _sizes(len(texts), fractions, after - shift)
    parts_of = zip(np.roll(order, shift), np.repeat(range(3), sizes), strict=True)
    part_of = {texts[i]: part for i, part in parts_of}
    _check_near_duplicates(part_of)

    parts: tuple[list[QuestionTraces], ...] = ([], [], [])
    for group in groups:
        part = part_of[normalise_question(group.question.text)]
        if not holdout or (group.model in holdout) == (part == 2):
            parts[part].append(group)
    if empty := [
        name
        for name, part, fraction in zip(("train", "val", "test"), parts, fractions, strict=True)
        if fraction > 0 and not part
    ]:
        raise InputError(
            f"without the traces of {sorted(holdout)} nothing is left for {', '.join(empty)}: the "
            "other models need traces of training questions, the held-out ones of test questions."
        )
    return Splits(*(tuple(part) for part in parts))


def _check_split(groups: Sequence[QuestionTraces], fractions: Sequence[float], fold: int) -> None:
    """Check the arguments of `split_questions`."""
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions must be three numbers >= 0 that sum to 1, got {tuple(fractions)}."
        )
    if fold < 0 or (fold and (fold + 1) * fractions[2] > 1 + 1e-6):
        raise ValueError(
            f"fold must lie in [0, 1 / test fraction), got {fold} with test fraction "
            f"{fractions[2]:g}."
        )
    for group in groups:
        if len(group.traces) < 2:
            raise InputError(
                f"a pair needs two traces of a question, got {len(group.traces)} for "
                f"{'/'.join(group.question.key)} ({group.model}): collect more traces, or exclude "
                "the question or the model (data.datasets, data.models)."
            )


def check_disjoint(splits: Splits) -> None:
    """Check that no question is in two parts.

    Raises:
        InputError: If a question, or a near-duplicate of it, is in two parts.
    """
    part_of: dict[str, int] = {}
    for part, groups in enumerate((splits.train, splits.val, splits.test)):
        for text in {normalise_question(group.question.text) for group in groups}:
            if part_of.setdefault(text, part) != part:
                raise InputError(
                    f"a question may be in one part only, got {_shorten(text)} in two: "
                    "split by question with data.splits.split_questions."
                )
    _check_near_duplicates(part_of)


@lru_cache(maxsize=65_536)
def _shingles(text: str) -> tuple[tuple[str, ...], Counter[tuple[str, ...]]]:
    """Return the numbers and signs of a question, in order, and its three-word runs."""
    words = _WORD.findall(normalise_question(text))
    runs = [tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))]
    return tuple(word for word in words if _FACT.fullmatch(word)), Counter(runs)


def _check_near_duplicates(part_of: dict[str, int]) -> None:
    """Compare questions across parts; only those with the same facts can be near-duplicates."""
    by_facts: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for text in part_of:
        by_facts[_shingles(text)[0]].append(text)
    for same in by_facts.values():
        for i, first in enumerate(same):
            for second in same[:i]:
                if part_of[first] == part_of[second]:
                    continue
                if (similarity := question_similarity(first, second)) >= NEAR_DUPLICATE:
                    raise InputError(
                        "near-duplicate questions may not be in different parts, got "
                        f"{_shorten(first)} and {_shorten(second)} (similarity {similarity:.2f} >= "
                        f"{NEAR_DUPLICATE}): remove one of them, or split with another seed."
                    )


def _sizes(n: int, fractions: Sequence[float], n_test: int) -> list[int]:
    """Round the sizes of the parts, at least 1 where wanted; the largest gets the remainder."""
    wanted = [n * fractions[0], n * fractions[1], n_test]
    sizes = [max(1, round(w)) if f > 0 else 0 for w, f in zip(wanted, fractions, strict=True)]
    largest = max(range(3 if fractions[2] == 1 else 2), key=lambda part: sizes[part])
    sizes[largest] += n - sum(sizes)
    return sizes


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
