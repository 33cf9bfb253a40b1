"""Equivalence classes of the answers of one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, runtime_checkable

from deepprune.core.types import NO_ANSWER


class Checker(Protocol):
    """Decides whether two answers are the same; ``EquivalenceChecker`` is one."""

    def same(self, a: str, b: str) -> bool:
        """Whether two answers are the same."""
        ...


@runtime_checkable
class BatchChecker(Protocol):
    """A checker that takes many pairs at once."""

    def same_many(self, pairs: Iterable[tuple[str, str]]) -> list[bool]:
        """Whether the answers of each pair are the same, in order."""
        ...


Same = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class AnswerClasses:
    """The classes of a question's answers.

    Attributes:
        class_ids: Class of each answer in the order given, ``NO_ANSWER`` for ``None``. Class 0 is
            the most frequent; among equals the one that appears first comes first.
        conflicts: Pairs of distinct answers that stand in one class although the relation calls
            them different. It is not transitive (0.333333 is 1/3, which is 0.3333333), and a class
            is what chains of equal answers connect.
    """

    class_ids: tuple[int, ...]
    conflicts: int


def answer_classes(
    answers: Sequence[str | None], same: Same | Checker | BatchChecker
) -> AnswerClasses:
    """Group the answers of one question into equivalence classes.

    Each pair of distinct strings is compared once, in one batch where ``same`` has ``same_many``.

    >>> answer_classes(["2", None, "1", "1.0"], lambda a, b: float(a) == float(b)).class_ids
    (1, -1, 0, 0)
    """
    distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
    pairs = list(combinations(range(len(distinct)), 2))
    verdicts = _compare([(distinct[i], distinct[j]) for i, j in pairs], same)

    root = list(range(len(distinct)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for (i, j), is_same in zip(pairs, verdicts, strict=True):
        if is_same:
            low, high = sorted((find(i), find(j)))
            root[high] = low  # a class is named by its first answer
    conflicts = sum(
        not is_same and find(i) == find(j) for (i, j), is_same in zip(pairs, verdicts, strict=True)
    )
    class_of = {answer: find(i) for i, answer in enumerate(distinct)}
    sizes = Counter(class_of[answer] for answer in answers if answer is not None)
    order = sorted(sizes, key=lambda first: (-sizes[first], first))
    number = {first: k for k, first in enumerate(order)}
    return AnswerClasses(
        tuple(NO_ANSWER if a is None else number[class_of[a]] for a in answers), conflicts
    )


class AnswerNumbers:
    """Classes of answers that arrive one by one: a new one gets the next number.

    An answer belongs to the first class that has an equal answer. Where the relation is not
    transitive, `answer_classes` on all answers may join two classes that stay apart here.

    Args:
        same: Decides whether two answers are the same.
        known: Classes of earlier answers, to go on with.

    Attributes:
        first: Of each class the answer that came first.
    """

    def __init__(
        self, same: Same | Checker | BatchChecker, known: Mapping[str, int] | None = None
    ) -> None:
        self._same = same
        self._classes = dict(known or {})
        self.first: dict[int, str] = {}
        for answer, number in self._classes.items():
            self.first.setdefault(number, answer)

    def number(self, answer: str | None) -> int:
        """The class of an answer; ``NO_ANSWER`` for ``None``."""
        if answer is None:
            return NO_ANSWER
        if answer not in self._classes:
            known = list(self._classes)
            verdicts = _compare([(answer, other) for other in known], self._same)
            equal = [other for other, is_same in zip(known, verdicts, strict=True) if is_same]
            number = self._classes[equal[0]] if equal else 1 + max(self.first, default=NO_ANSWER)
            self._classes[answer] = number
            self.first.setdefault(number, answer)
        return self._classes[answer]


def is_correct(answer: str | None, gold: str, checker: Checker) -> bool:
    """Whether an answer is the same as the gold answer; no answer is not."""
    return answer is not None and checker.same(answer, gold)


def _compare(
    pairs: Sequence[tuple[str, str]], same: Same | Checker | BatchChecker
) -> Sequence[bool]:
    if isinstance(same, BatchChecker):
        return same.same_many(pairs)
    one: Same = same if callable(same) else same.same
    return [one(a, b) for a, b in pairs]
