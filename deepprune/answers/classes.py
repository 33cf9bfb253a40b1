"""Equivalence classes of the answers of one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from deepprune.answers.equivalence import EquivalenceChecker
from deepprune.core.types import NO_ANSWER


def answer_classes(
    answers: Sequence[str | None], checker: EquivalenceChecker
) -> tuple[list[int], int]:
    """Group the answers of one question into equivalence classes.

    Compares each pair of distinct strings once, all in one batch.

    Returns:
        The class of each answer, ``NO_ANSWER`` for ``None``; class 0 is the most frequent one, and
        ties are ordered by first appearance. And the number of conflicts: pairs of distinct answers
        that share a class although the checker calls them different. Equivalence with a tolerance
        is not transitive (0.333333 is 1/3, which is 0.3333333), and a class is whatever a chain of
        equivalent answers connects.
    """
    distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
    pairs = list(combinations(range(len(distinct)), 2))
    verdicts = checker.same_many([(distinct[i], distinct[j]) for i, j in pairs])

    root = list(range(len(distinct)))  # union-find; a class is represented by its first answer

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for (i, j), is_same in zip(pairs, verdicts, strict=True):
        if is_same:
            low, high = sorted((find(i), find(j)))
            root[high] = low
    conflicts = sum(
        not is_same and find(i) == find(j) for (i, j), is_same in zip(pairs, verdicts, strict=True)
    )
    class_of = {answer: find(i) for i, answer in enumerate(distinct)}
    sizes = Counter(class_of[answer] for answer in answers if answer is not None)
    order = sorted(sizes, key=lambda first: (-sizes[first], first))
    number = {first: k for k, first in enumerate(order)}
    return [NO_ANSWER if a is None else number[class_of[a]] for a in answers], conflicts


class AnswerNumbers:
    """Classes of answers that arrive one by one; a new class gets the next number.

    An answer joins the first class that has an equivalent answer. Since equivalence is not
    transitive, `answer_classes` on all answers may merge two classes that stay separate here.

    Args:
        checker: Decides whether two answers are equivalent.
        known: Answers and their classes from earlier, to continue from.

    Attributes:
        first: The first answer of each class.
    """

    def __init__(self, checker: EquivalenceChecker, known: Mapping[str, int] | None = None) -> None:
        self._checker = checker
        self._classes = dict(known or {})
        self.first: dict[int, str] = {}
        for answer, number in self._classes.items():
            self.first.setdefault(number, answer)

    def number(self, answer: str | None) -> int:
        """Return the class of an answer; ``NO_ANSWER`` for ``None``."""
        if answer is None:
            return NO_ANSWER
        if answer not in self._classes:
            known = list(self._classes)
            verdicts = self._checker.same_many([(answer, other) for other in known])
            equal = [other for other, is_same in zip(known, verdicts, strict=True) if is_same]
            number = self._classes[equal[0]] if equal else 1 + max(self.first, default=NO_ANSWER)
            self._classes[answer] = number
            self.first.setdefault(number, answer)
        return self._classes[answer]
