from dataclasses import replace

import pytest
from builders import group

from deepprune.core.errors import InputError
from deepprune.data.splits import (
    Splits,
    check_disjoint,
    normalise_question,
    question_hash,
    question_similarity,
    split_questions,
)

TREES = "There are 15 trees in the grove and workers will plant some more of them today. How many?"


def ask(text, *, name=None, model="tiny", answers=("a", "b")):
    made = group(list(answers), name=name or text)
    question = replace(made.question, text=text)
    traces = tuple(replace(t, question=question, model=model) for t in made.traces)
    return replace(made, question=question, model=model, traces=traces)


def texts(groups):
    return {normalise_question(g.question.text) for g in groups}


def sums(n):
    return [ask(f"What is {i} + {i + 7}?") for i in range(n)]


def test_normalised_text_identifies_a_question():
    assert normalise_question("  What IS\n2 + 2 ?") == "what is 2 + 2"
    assert question_hash("What is 2 + 2?") == question_hash("what is  2 + 2")
    assert question_hash("What is 2 + 2?") != question_hash("What is 2 + 3?")
    assert len(question_hash("x")) == 32


def test_parts_are_disjoint_complete_and_sized():
    groups = sums(20)
    splits = split_questions(groups, (0.6, 0.15, 0.25), seed=1)
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [12, 3, 5]
    assert texts(splits.train) | texts(splits.val) | texts(splits.test) == texts(groups)
    check_disjoint(splits)
    assert len(splits.seen_questions()) == 15
    assert split_questions(groups, (0.6, 0.15, 0.25), seed=1) == splits
    assert split_questions(groups, (0.6, 0.15, 0.25), seed=2) != splits


def test_the_same_text_stays_together_across_data_sets_and_models():
    groups = [ask(f"What is {i}?", model=model) for i in range(8) for model in ("one", "two")]
    groups += [ask(f"what is  {i}", name=f"copy{i}") for i in range(8)]
    splits = split_questions(groups, (0.5, 0.25, 0.25))
    assert len(splits.train) == 12
    check_disjoint(splits)


def test_templates_with_other_numbers_are_different_questions():
    assert question_similarity(TREES, TREES.replace("15", "16")) == 0
    assert question_similarity("What is 3 + 4?", "What is 4 + 3?") == 0
    assert question_similarity("What is 3 + 4?", "What is 3 - 4?") == 0
    split_questions([ask(TREES.replace("15", str(i))) for i in range(30)])


def test_near_duplicates_across_parts_are_an_error_that_names_both():
    long = TREES + " They finish before noon and then count all of the trees again. " * 4
    copy = long.replace("in the grove", "in that grove")
    assert 0.9 <= question_similarity(long, copy) < 1
    groups = [*sums(4), ask(long), ask(copy)]
    outcomes = []
    for seed in range(20):
        try:
            splits = split_questions(groups, (0.4, 0.3, 0.3), seed=seed)
        except InputError as error:
            outcomes.append(str(error))
        else:  # both in one part
            both = texts(groups[4:])
            assert any(both <= texts(part) for part in (splits.train, splits.val, splits.test))
    assert outcomes
    assert all("in the grove" in o and "in that grove" in o for o in outcomes)


def test_hand_made_parts_are_checked():
    one = ask("What is 1?")
    with pytest.raises(InputError, match="what is 1"):
        check_disjoint(Splits(train=(one,), val=(), test=(one,)))


def test_held_out_models_go_to_the_test_only():
    groups = [ask(f"What is {i}?", model=model) for i in range(12) for model in ("seen", "new")]
    splits = split_questions(groups, (0.5, 0.25, 0.25), holdout_models=["new"])
    assert {g.model for g in (*splits.train, *splits.val)} == {"seen"}
    assert {g.model for g in splits.test} == {"new"}
    check_disjoint(splits)
    with pytest.raises(InputError, match=r"\['nwe'\]; there are \['new', 'seen'\]"):
        split_questions(groups, holdout_models=["nwe"])


def test_a_question_needs_two_traces():
    with pytest.raises(InputError, match="got 1"):
        split_questions([*sums(5), ask("What is love?", answers=("a",))])


def test_fractions_and_sizes_are_checked():
    with pytest.raises(ValueError, match=r"got \(0.5, 0.2, 0.2\)"):
        split_questions(sums(5), (0.5, 0.2, 0.2))
    with pytest.raises(InputError, match="got 2"):
        split_questions(sums(2))
    assert not split_questions(sums(4), (0.5, 0, 0.5)).val


@pytest.mark.parametrize(
    ("n", "fractions", "sizes"),
    [(23, (0.65, 0.15, 0.2), [15, 3, 5]), (5, (0.9, 0.05, 0.05), [3, 1, 1])],
)
def test_sizes_are_rounded_and_at_least_one(n, fractions, sizes):
    """23 questions: 14.95, 3.45 and 4.6."""
    splits = split_questions(sums(n), fractions)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == sizes


@pytest.mark.parametrize("n", [20, 23, 24, 28])
def test_folds_test_every_question_once(n):
    groups = sums(n)
    splits = [split_questions(groups, (0.65, 0.15, 0.2), fold=f) for f in range(5)]
    tested = [question for s in splits for question in texts(s.test)]
    assert sorted(tested) == sorted(texts(groups))
    assert {len(s.train) + len(s.val) + len(s.test) for s in splits} == {n}
    with pytest.raises(ValueError, match="fold must lie in"):
        split_questions(groups, (0.65, 0.15, 0.2), fold=5)
