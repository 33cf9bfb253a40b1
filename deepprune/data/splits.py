"""Question-disjoint splits, by the text of the question."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.seeding import generator
from deepprune.core.types import QuestionTraces

NEAR_DUPLICATE = 0.9
"""Similarity from which two questions count as one; see ``question_similarity``."""

_NUMBER = r"\d+(?:\.\d+)?"
_SIGN = r"[+*/^=<>\u00d7\u00f7]|-(?=\s?[\d(])"
_WORD = re.compile(rf"{_NUMBER}|{_SIGN}|\\?[^\W\d_]+|[^\w\s]")
_FACT = re.compile(rf"{_NUMBER}|{_SIGN}")
_SHINGLE = 3  # words


def normalise_question(text: str) -> str:
    """The text as splits compare it: Unicode NFKC, lower case, single spaces, no end punctuation.

    Numbers and operators stay: they are what tells two sums apart.

    >>> normalise_question("What is  2 + 2?")
    'what is 2 + 2'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(" .?!:;,")


def question_hash(text: str) -> str:
    """Identifies a question across datasets: blake2b of the normalised text, 32 hex digits."""
    return hashlib.blake2b(normalise_question(text).encode(), digest_size=16).hexdigest()


def question_similarity(first: str, second: str) -> float:
    """How alike two question texts are, in [0, 1].

    The Jaccard index of their multisets of three-word runs. Questions with other numbers or
    arithmetic signs, or with the same in another order, are different questions however much else
    they share (sums from a template are), so those have similarity 0.
    """
    return _Shingles(first).similarity(_Shingles(second))


@dataclass(frozen=True, slots=True)
class Splits:
    """The parts of a store; no question stands in two of them.

    Attributes:
        train: Groups for fitting.
        val: Groups for choosing a checkpoint and for calibration.
        test: Groups for reporting.
    """

    train: tuple[QuestionTraces, ...]
    val: tuple[QuestionTraces, ...]
    test: tuple[QuestionTraces, ...]

    def seen_questions(self) -> frozenset[str]:
        """Hashes of the questions that training and validation use."""
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

    Questions with the same text go together, whatever dataset or model they come from. Rounding
    never leaves a part empty that was asked for.

    Args:
        groups: Traces of questions, of one or more models.
        fractions: Shares of the questions for train, validation and test; they sum to 1.
        holdout_models: Traces of these models are used in test only (unseen-model test), and test
            then has no others. Their questions are the test questions too, so that neither model
            nor question was seen.
        fold: Which test part of a cross-validation, below 1 / (test fraction): with a fraction of
            1/5, those of folds 0 to 4 share no question and are all questions together.
        seed: Decides which question goes where.

    Raises:
        ValueError: If ``fractions`` are not three shares that sum to 1, or there is no such fold.
        InputError: If a question has only one trace, there are too few questions, a
            held-out model is unknown, or near-duplicates fall into different parts.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions must be three shares >= 0 that sum to 1, got {tuple(fractions)}."
        )
    if fold < 0 or (fold and (fold + 1) * fractions[2] > 1 + 1e-6):
        raise ValueError(
            f"fold must lie in [0, 1 / test fraction), the fraction is {fractions[2]:g}, got "
            f"{fold}."
        )
    for group in groups:
        _check_traces(group)
    holdout = _check_models(groups, holdout_models)

    texts = sorted({normalise_question(group.question.text) for group in groups})
    if len(texts) < sum(f > 0 for f in fractions):
        raise InputError(
            f"a split into train, validation and test needs a question for each, got {len(texts)}."
        )
    order = generator(seed, "split").permutation(len(texts))
    # Test questions stand last; a fold later, those before them have moved there.
    shift, after = (round(f * fractions[2] * len(texts)) for f in (fold, fold + 1))
    order = np.roll(order, shift)
    part_of: dict[str, int] = {}
    start = 0
    for part, size in enumerate(_sizes(len(texts), fractions, after - shift)):
        part_of.update((texts[i], part) for i in order[start : start + size])
        start += size
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
            f"after holding out {sorted(holdout)} nothing is left for {', '.join(empty)}: the "
            "other models need traces of the training questions, the held-out ones of the test's."
        )
    return Splits(*(tuple(part) for part in parts))


def check_disjoint(splits: Splits) -> None:
    """Check parts that were put together by hand.

    Raises:
        InputError: If a question, or a near-duplicate of it, stands in two parts.
    """
    part_of: dict[str, int] = {}
    for part, groups in enumerate((splits.train, splits.val, splits.test)):
        for text in {normalise_question(group.question.text) for group in groups}:
            if part_of.setdefault(text, part) != part:
                raise InputError(
                    f"a question may stand in one part only, got {_shorten(text)} in two: "
                    "split by question with data.splits.split_questions."
                )
    _check_near_duplicates(part_of)


class _Shingles:
    """Numbers with signs, and three-word runs, of a question."""

    def __init__(self, text: str) -> None:
        words = _WORD.findall(normalise_question(text))
        self.facts = tuple(word for word in words if _FACT.fullmatch(word))
        runs = [tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))]
        self.runs = Counter(runs)

    def similarity(self, other: _Shingles) -> float:
        if self.facts != other.facts:
            return 0.0
        return (self.runs & other.runs).total() / (self.runs | other.runs).total()


def _check_near_duplicates(part_of: dict[str, int]) -> None:
    """Compare questions across parts; only those with the same facts can be near-duplicates."""
    by_facts: defaultdict[tuple[str, ...], list[tuple[str, _Shingles]]] = defaultdict(list)
    for text in part_of:
        shingles = _Shingles(text)
        by_facts[shingles.facts].append((text, shingles))
    for same in by_facts.values():
        for i, (first, shingles) in enumerate(same):
            for second, others in same[:i]:
                if part_of[first] == part_of[second]:
                    continue
                if (similarity := shingles.similarity(others)) >= NEAR_DUPLICATE:
                    raise InputError(
                        "near-duplicate questions may not stand in different parts, got "
                        f"{_shorten(first)} and {_shorten(second)} (similarity {similarity:.2f} >= "
                        f"{NEAR_DUPLICATE}): drop one of them, or split with another seed."
                    )


def _check_traces(group: QuestionTraces) -> None:
    if len(group.traces) < 2:
        question = group.question
        raise InputError(
            f"a pair needs two traces of a question, got {len(group.traces)} for "
            f"{question.dataset}/{question.question_id} ({group.model}): collect more traces, or "
            "leave the question or the model out (data.datasets, data.models)."
        )


def _check_models(groups: Sequence[QuestionTraces], holdout_models: Iterable[str]) -> set[str]:
    holdout, known = set(holdout_models), {group.model for group in groups}
    if unknown := sorted(holdout - known):
        raise InputError(
            f"holdout_models must be models of the store, got {unknown}; there are {sorted(known)}."
        )
    return holdout


def _sizes(n: int, fractions: Sequence[float], n_test: int) -> list[int]:
    """Sizes of the parts: rounded, none empty that was asked for, the largest takes the rest."""
    wanted = [n * fractions[0], n * fractions[1], n_test]
    sizes = [max(1, round(w)) if f > 0 else 0 for w, f in zip(wanted, fractions, strict=True)]
    largest = max(range(3 if fractions[2] == 1 else 2), key=lambda part: sizes[part])
    sizes[largest] += n - sum(sizes)
    return sizes


def _shorten(text: str, limit: int = 120) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
