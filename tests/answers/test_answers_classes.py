from deepprune.answers import EquivalenceChecker, answer_classes, is_correct


def close(a, b):
    return abs(float(a) - float(b)) <= 1


def test_classes_are_numbered_by_frequency_then_first_appearance():
    """Three 5s, two 9s, one 1: the 9s come first in the list and still are class 1."""
    answers = ["9", "5", None, "1", "5", "9", "5"]
    classes = answer_classes(answers, lambda a, b: a == b)
    assert classes.class_ids == (1, 0, -1, 2, 0, 1, 0)
    assert answer_classes(["b", "a"], lambda a, b: False).class_ids == (0, 1)
    assert answer_classes([None, None], close).class_ids == (-1, -1)


def test_conflicts_are_the_pairs_that_only_a_chain_connects():
    """1 ~ 2 ~ 3 ~ 4 by steps of one: 1-3, 1-4 and 2-4 are called different."""
    classes = answer_classes(["1", "2", "4", "3", "9"], close)
    assert classes.class_ids == (0, 0, 0, 0, 1)
    assert classes.conflicts == 3


def test_only_distinct_strings_are_compared_and_in_one_batch():
    class Counting:
        batches = ()

        def same(self, a, b):
            raise AssertionError("a batch was offered")

        def same_many(self, pairs):
            self.batches += (list(pairs),)
            return [False for _ in pairs]

    checker = Counting()
    answer_classes(["a", "b", "a", None, "c", "a"], checker)
    assert checker.batches == ([("a", "b"), ("a", "c"), ("b", "c")],)


def test_with_the_real_checker():
    with EquivalenceChecker() as checker:
        answers = ["0.5", r"\frac{1}{2}", None, "1", r"\tfrac12"]
        assert answer_classes(answers, checker).class_ids == (0, 0, -1, 1, 0)
        assert [is_correct(a, "1/2", checker) for a in answers] == [True, True, False, False, True]
