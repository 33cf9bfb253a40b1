import itertools
from collections import Counter
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


def test_a_cap_needs_room():
    with pytest.raises(ValueError, match="got 0"):
        build_pairs(group(["a", "a"]), RULE, max_pairs=0)


def test_representatives_have_several_candidates():
    question = group(["a", "b"] * 8)
    for max_pairs, sizes in [(24, [8] * 3), (20, [8, 8, 4]), (6, [6])]:
        sample = build_pairs(question, RULE, max_pairs=max_pairs, n_candidates=8, seed=3)
        assert len(set(unordered(sample))) == max_pairs
        firsts = [first for first, _ in names(sample)]
        assert [len(list(same)) for _, same in itertools.groupby(firsts)] == sizes
    every = build_pairs(question, RULE, n_candidates=8)
    assert unordered(every) == unordered(build_pairs(question, RULE))
    assert build_pairs(group(["a"]), RULE, n_candidates=8) == []


def test_with_representatives_all_pairs_are_as_likely():
    """Each of the 10 pairs of five traces is in 40 % of the samples, and first in half of them."""
    question, n = group(["a"] * 5), 2000
    counts = Counter()
    for seed in range(n):
        counts.update(names(build_pairs(question, RULE, max_pairs=4, n_candidates=3, seed=seed)))
    assert len(counts) == 20
    assert all(abs(count / n - 0.2) < 0.04 for count in counts.values())
