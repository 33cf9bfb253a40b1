import pytest
from builders import trace

from deepprune.core.types import Question
from deepprune.data.prefixes import FirstTokens, Fraction, ReasoningWords, make_prefix

QUESTION = Question("toy", "q", "What is 2 + 2?", "4")


def one(text):
    """A trace whose tokens are words with the spaces before them."""
    return trace(QUESTION, 0, text, "4", 0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FirstTokens(2), "Wait, let"),
        (FirstTokens(99), "Wait, let me wait. Thus 4"),
        (ReasoningWords(1, ["wait"]), "Wait,"),
        (ReasoningWords(2, ["wait"]), "Wait, let me wait."),
        (ReasoningWords(3, ["wait", "thus"]), "Wait, let me wait. Thus"),
        (ReasoningWords(3, ["wait"]), "Wait, let me wait. Thus 4"),  # too few: the whole text
        (Fraction(0.5), "Wait, let me"),
        (Fraction(0.51), "Wait, let me wait."),
        (Fraction(1.0), "Wait, let me wait. Thus 4"),
    ],
)
def test_where_a_prefix_ends(rule, expected):
    prefix = make_prefix(one("Wait, let me wait. Thus 4"), rule)
    assert prefix.text == expected
    assert prefix.is_finished == (expected[-1] == "4")


def test_reasoning_words_are_whole_words():
    text = "Awaiting the waiter I waited, WAIT here"
    assert make_prefix(one(text), ReasoningWords(1, ["wait"])).n_tokens == 6


def test_the_prefix_ends_with_the_token_that_completes_the_word():
    """Tokens may cut words: "th|us 4": the word is complete with the second token."""
    assert ReasoningWords(1, ["thus"]).cut("thus 4 or 5", [2, 4, 6, 11]) == 2
    assert ReasoningWords(1, ["thus"]).cut("thus 4 or 5", [2, 6, 11]) == 2


def test_a_prefix_that_states_the_answer_is_finished():
    text = r"so \boxed{4} is it, I am sure"
    assert not make_prefix(one(text), FirstTokens(1)).is_finished
    assert make_prefix(one(text), FirstTokens(2)).is_finished


@pytest.mark.parametrize("rule", [FirstTokens, ReasoningWords])
def test_rules_refuse_an_empty_prefix(rule):
    with pytest.raises(ValueError, match="got 0"):
        rule(0)


@pytest.mark.parametrize("fraction", [0, 1.5])
def test_fractions_are_fractions(fraction):
    with pytest.raises(ValueError, match=f"got {fraction}"):
        Fraction(fraction)


def test_words_must_be_words():
    with pytest.raises(ValueError, match="non-empty"):
        ReasoningWords(1, ["wait", ""])
