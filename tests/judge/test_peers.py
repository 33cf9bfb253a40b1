"""What the other prefixes of a question tell about a pair."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
from builders import group, trace

from deepprune.core.types import Prefix, Question, TracePair, among_peers
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.features.peers import NAMES, columns

TEXTS = ["the 1 2", "the 1 2", "the 9", "the 8"]


def prefixes(texts=TEXTS):
    traces = [trace(Question("toy", "q", "?"), i, text, "a", 0) for i, text in enumerate(texts)]
    return among_peers([Prefix(t, t.n_tokens, False) for t in traces])


def feature(name, pair):
    return columns([pair])[0, NAMES.index(name)]


def test_columns_by_hand():
    """Numbers {1, 2}, {1, 2}, {9}, {8}: two peers of four have 1 and 2, one has 9 and 8."""
    a, b, c, d = prefixes()
    assert feature("numbers_rarity_jaccard", TracePair(a, b)) == pytest.approx(1)
    assert feature("numbers_mean_low", TracePair(a, c)) == 0  # 9 is shared with none
    assert feature("numbers_mean_high", TracePair(a, c)) == pytest.approx(1 / 3)  # b alone, of 3
    # Words: all have "the", which then weighs log(5 / 4.5), and nothing else.
    assert feature("words_rarity_jaccard", TracePair(c, d)) == pytest.approx(1)
    # Numbers of {1, 2, 7} and {1, 2}: 7 is rarer (1 of 4) than 1 and 2 (2 of 4).
    a, b, c, d = prefixes(["1 2 7", "1 2", "5", "6"])
    common, rare = log(5 / 2.5), log(5 / 1.5)
    expected = 2 * common / (2 * common + rare)
    assert feature("numbers_rarity_jaccard", TracePair(a, b)) == pytest.approx(expected)


def test_order_changes_nothing_and_peers_are_needed():
    a, b, c, _ = prefixes()
    pairs = [TracePair(a, b), TracePair(b, c)]
    swapped = [TracePair(p.second, p.first) for p in pairs]
    assert (columns(pairs) == columns(swapped)).all()
    assert (columns(pairs[::-1]) == columns(pairs)[::-1]).all()
    with pytest.raises(ValueError, match="a pair must have peers"):
        columns([TracePair(replace(a, peers=None), replace(b, peers=None))])


def test_the_peers_of_a_pair_are_all_traces_of_its_question_answered_or_not():
    traces = group(["a", None, "b", "a"])
    pairs = build_pairs(traces, FirstTokens(5), seed=0)
    assert len(pairs) == 3
    for pair in pairs:
        found = [p.trace.sample_id for p in pair.first.peers.prefixes]
        assert found == [0, 1, 2, 3]
        assert {p.n_tokens for p in pair.second.peers.prefixes} == {5}
    assert np.isfinite(columns(pairs)).all()
