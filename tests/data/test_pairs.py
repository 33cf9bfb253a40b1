from dataclasses import replace

import pytest
from builders import group

from deepprune.core.types import TracePair
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens

RULE = FirstTokens(5)


def names(pairs):
    return [(p.first.trace.sample_id, p.second.trace.sample_id) for p in pairs]


def unordered(pairs):
    return sorted(tuple(sorted(name)) for name in names(pairs))


def test_all_unordered_pairs_with_an_answer():
    pairs = build_pairs(group(["a", "b", None, "a"]), RULE)
    assert unordered(pairs) == [(0, 1), (0, 3), (1, 3)]
    assert {tuple(sorted(n)): p.label for n, p in zip(names(pairs), pairs, strict=True)} == {
        (0, 1): 0,
        (0, 3): 1,
        (1, 3): 0,
    }


def test_swapping_a_pair_keeps_its_label():
    for pair in build_pairs(group(["a", "b", "a"]), RULE):
        swapped = TracePair(pair.second, pair.first)
        assert swapped.label == pair.label
        assert swapped.is_unfinished == pair.is_unfinished


def test_orientation_is_random_but_seeded():
    question = group(["a"] * 12)
    assert names(build_pairs(question, RULE, seed=1)) == names(build_pairs(question, RULE, seed=1))
    share = sum(a < b for a, b in names(build_pairs(question, RULE, seed=1))) / 66
    assert 0.3 < share < 0.7


def test_only_unfinished_leaves_out_traces_that_have_ended():
    question = group(["a", "a", "b"], [4, 10, 10])
    assert unordered(build_pairs(question, RULE, only_unfinished=True)) == [(1, 2)]
    assert sum(pair.is_unfinished for pair in build_pairs(question, RULE)) == 1


def test_the_sample_depends_on_seed_and_question_alone():
    question = group(["a", "b"] * 8)
    sample = names(build_pairs(question, RULE, max_pairs=10, seed=3))
    assert len(set(sample)) == 10
    assert names(build_pairs(question, RULE, max_pairs=10, seed=3)) == sample
    assert names(build_pairs(question, RULE, max_pairs=10, seed=4)) != sample
    other = replace(question, question=replace(question.question, question_id="other"))
    assert names(build_pairs(other, RULE, max_pairs=10, seed=3)) != sample


def with_texts(question, texts):
    traces = [
        replace(trace, text=text + trace.text[len(text) :])
        for trace, text in zip(question.traces, texts, strict=True)
    ]
    return replace(question, traces=tuple(traces))


def test_soft_labels_are_shares_of_agreeing_continuations():
    """Prefix X goes on to a, a, b and prefix Y to a, b: of the 6 pairs across, 2 + 1 agree. Within
    X 1 of 3 pairs agree, within Y none; a lone prefix has its hard label."""
    question = group(["a", "a", "b", "a", "b", "a", None])
    same_start = with_texts(question, ["X " * 14] * 3 + ["Y " * 14] * 2 + ["Z " * 14] * 2)
    rule = FirstTokens(4)
    assert all(p.agreement is None for p in build_pairs(same_start, rule))
    shares = {"XY": 3 / 6, "XX": 1 / 3, "YY": 0, "XZ": 2 / 3, "YZ": 1 / 2}
    pairs = build_pairs(same_start, rule, soft_labels=True)
    assert len(pairs) == 15
    for pair in pairs:
        name = "".join(sorted(pair.first.text[0] + pair.second.text[0]))
        assert pair.agreement == pytest.approx(shares[name])
    sample = build_pairs(same_start, rule, soft_labels=True, max_pairs=4)
    assert {p.agreement for p in sample} <= {p.agreement for p in pairs}
    unique = build_pairs(question, RULE, soft_labels=True)
    assert [p.agreement for p in unique] == [p.label for p in unique]


def test_a_cap_needs_room():
    with pytest.raises(ValueError, match="got 0"):
        build_pairs(group(["a", "a"]), RULE, max_pairs=0)
