import pytest

from deepprune.answers import EquivalenceChecker, answer_classes
from deepprune.answers.classes import AnswerNumbers


class Within:
    """Calls numbers equal that differ by at most ``distance``; remembers what it was asked."""

    def __init__(self, distance):
        self.distance = distance
        self.batches = []

    def same_many(self, pairs):
        self.batches.append(list(pairs))
        return [abs(float(a) - float(b)) <= self.distance for a, b in pairs]


def test_classes_are_numbered_by_frequency_then_first_appearance():
    """Three 5s, two 9s, one 1: the 9s come first in the list but are class 1."""
    answers = ["9", "5", None, "1", "5", "9", "5"]
    assert answer_classes(answers, Within(0))[0] == [1, 0, -1, 2, 0, 1, 0]
    assert answer_classes(["2", "1"], Within(0))[0] == [0, 1]
    assert answer_classes([None, None], Within(0))[0] == [-1, -1]


def test_conflicts_are_the_pairs_that_only_a_chain_connects():
    """1 ~ 2 ~ 3 ~ 4 by steps of one: 1-3, 1-4 and 2-4 are called different. Of 1, 2, 3: 1-3."""
    assert answer_classes(["1", "2", "4", "3", "9"], Within(1)) == ([0, 0, 0, 0, 1], 3)
    assert answer_classes(["1", "2", "3", "9"], Within(1)) == ([0, 0, 0, 1], 1)


def test_only_distinct_strings_are_compared_and_in_one_batch():
    checker = Within(0)
    answer_classes(["1", "2", "1", None, "3", "1"], checker)
    assert checker.batches == [[("1", "2"), ("1", "3"), ("2", "3")]]


def test_with_the_real_checker():
    with EquivalenceChecker() as checker:
        answers = ["0.5", r"\frac{1}{2}", None, "1", r"\tfrac12"]
        assert answer_classes(answers, checker)[0] == [0, 0, -1, 1, 0]


@pytest.mark.parametrize(
    ("known", "arriving", "numbers"),
    [
        ({}, ["5", None, "9", "5", "5.5"], [0, -1, 1, 0, 2]),
        ({}, ["1", "2", "3", "4"], [0, 0, 0, 0]),  # each is within 1 of the one before
        ({}, ["1", "3", "2", "4"], [0, 1, 0, 1]),  # 2 is near both and joins the first
        ({"7": 3}, ["9", "8", "7"], [4, 3, 3]),  # continues after the known classes
    ],
)
def test_answers_that_arrive_one_by_one_join_the_first_equal_class(known, arriving, numbers):
    classes = AnswerNumbers(Within(0 if None in arriving else 1), known)
    assert [classes.number(answer) for answer in arriving] == numbers


def test_the_first_answer_of_each_class_is_remembered():
    classes = AnswerNumbers(Within(1), {"7": 3})
    for answer in ("9", "8", "20"):
        classes.number(answer)
    assert classes.first == {3: "7", 4: "9", 5: "20"}
