"""Policies that look at token confidence or at the judge's scores along the way, by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import group, play

from deepprune.core.types import NO_ANSWER, Decision, StopReason
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepconf import DeepConf, group_confidences
from deepprune.pruning.policies.deepconf_offline import DeepConfOffline
from deepprune.pruning.policies.slim_sc import SlimSC

A, B = 0, 1  # the classes of answers "a" and "b"


def confident(answers, confidences):
    """Traces of the given answers, each token with its confidence."""
    traces = group(answers, [len(c) for c in confidences])
    pairs = zip(traces.traces, confidences, strict=True)
    return replace(traces, traces=tuple(replace(t, token_confidence=tuple(c)) for t, c in pairs))


def stops(outcome):
    return [(d.trace, d.reason) for d in outcome.decisions]


def test_group_confidence_is_a_sliding_mean_and_a_short_trace_is_one_group():
    confidence = np.array([1.0, 2.0, 6.0, 4.0])
    assert group_confidences(confidence, 2).tolist() == [1.5, 4.0, 5.0]
    assert group_confidences(confidence, 4).tolist() == [3.25]
    assert group_confidences(confidence, 9).tolist() == [3.25]


def test_deepconf_stops_the_unsure_and_ends_with_consensus():
    """Groups of 2 tokens. The warm-up's lowest groups are 4, 2, 1; keep half: the bar is their
    median, 2. Traces 0 and 1 vote with 4 for a and 2 for b: a has 4/6 < 0.8, so 3, 4 and 5 start.

    After 2 tokens all are at 3 or more. After 4 tokens the groups of trace 3 are 5, 3, 1: it stops,
    and trace 6 gets its seat. After 6 tokens trace 5 has ended with 6 for a: 10/12 >= 0.8, so 4
    stops at its 6th token, 6 at its 2nd. Tokens: 3 * 6 + 4 + 6 + 6 + 2 = 36.
    """
    traces = confident(
        ["a", "b", "a", "a", "b", "a", "b"],
        [[4] * 6, [2] * 6, [5, 5, 1, 1, 5, 5], [5, 5, 1, 1, 5, 5], [3] * 8, [6] * 6, [3] * 6],
    )
    policy = DeepConf(keep=0.5, warmup=3, window=2, consensus=0.8, check_every=2, parallel=3)
    outcome = play(policy, traces)
    assert stops(outcome) == [
        (3, StopReason.UNSURE),
        (4, StopReason.DECIDED),
        (6, StopReason.DECIDED),
    ]
    assert outcome.final.n_tokens.tolist() == [6, 6, 6, 4, 6, 6, 2]
    assert outcome.usage.tokens == 36
    assert outcome.vote.answer_class == A
    assert outcome.vote.weights == {A: 10.0, B: 2.0}
    assert outcome.vote.voters == (0, 1, 5)


def test_deepconf_leaves_out_a_trace_that_lapsed_and_ended_between_two_looks():
    """The bar is the warm-up's lower one, 2. Trace 2 ends at its 4th token, before the first look,
    with groups 3, 1, 3: its 4 tokens are paid, its b is not counted. Trace 3 is shorter than a
    group: its mean, 3, is its confidence. Weights: a 4; b 2 + 3."""
    traces = confident(["a", "b", "b", "b"], [[4] * 4, [2] * 4, [5, 1, 1, 5], [3]])
    policy = DeepConf(keep=1, warmup=2, window=2, consensus=None, check_every=100)
    outcome = play(policy, traces)
    assert outcome.decisions == ()
    assert outcome.usage.tokens == 4 + 4 + 4 + 1
    assert outcome.vote.weights == {A: 4.0, B: 5.0}
    assert outcome.vote.voters == (0, 1, 3)


def test_deepconf_lets_all_vote_where_the_confident_have_no_answer():
    """The bar is near the warm-up's upper one, 4, of a trace without an answer."""
    traces = confident([None, "b"], [[4] * 4, [2] * 4])
    vote = play(DeepConf(keep=0.1, warmup=2, window=2), traces).vote
    assert vote.weights == {0: 1.0}
    assert json.dumps(vote.voters) == "[0, 1]"  # live runs record it


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3333.0])
def test_a_recorded_confidence_that_is_no_number_is_none(bad):
    """As older versions recorded it: groups of 2 tokens, the lowest of trace 0 is (3 + 0) / 2."""
    traces = confident(["a", "b"], [[3, bad, 3, 3], [2] * 4])
    vote = play(DeepConf(keep=1, warmup=2, window=2, consensus=None), traces).vote
    assert vote.weights == {A: 1.5, B: 2.0}


def test_deepconf_ends_after_a_warm_up_that_agrees():
    """The bar is 3.8 (nine tenths of the way from 2 to 4), so trace 0 votes alone and has all the
    weight: trace 2 never starts."""
    outcome = play(
        DeepConf(warmup=2, window=2, consensus=0.95),
        confident(["a", "b", "b"], [[4] * 6, [2] * 6, [9]]),
    )
    assert outcome.usage.tokens == 12
    assert outcome.vote.weights == {A: 4.0}


def test_deepconf_votes_do_not_depend_on_how_often_it_looks():
    rng = np.random.default_rng(0)
    confidences = [rng.integers(5, 30, size=rng.integers(1, 40)).tolist() for _ in range(24)]
    traces = confident(["a", "b", "c"] * 8, confidences)
    votes, tokens = [], []
    for check_every in (1, 3, 100):
        policy = DeepConf(
            keep=0.5, warmup=6, window=4, consensus=None, check_every=check_every, parallel=5
        )
        outcome = play(policy, traces)
        votes.append(outcome.vote)
        tokens.append(outcome.usage.tokens)
    assert votes[0] == votes[1] == votes[2]
    assert tokens[0] < tokens[1] < tokens[2] == sum(map(len, confidences))


@pytest.mark.parametrize(
    ("measure", "weights", "voters"),
    [
        ("mean", {A: 6.0, B: 3.0}, (0, 1, 2)),  # 3, 3, 3: none is below the median
        ("tail", {A: 8.0}, (0, 1)),  # 5, 3, 2
        ("lowest_group", {A: 3.0, B: 2.0}, (1, 2)),  # 1, 3, 2
        ("bottom_groups", {A: 3.0, B: 2.0}, (1, 2)),  # a tenth of 3 groups is the lowest one
    ],
)
def test_deepconf_offline_keeps_the_most_confident_half(measure, weights, voters):
    """Groups of 2 tokens; trace 3 has no answer, so the median is that of the other three."""
    traces = confident(["a", "a", "b", None], [[1, 1, 5, 5], [3] * 4, [6, 2, 2, 2], [9] * 4])
    outcome = play(DeepConfOffline(measure=measure, keep=0.5, window=2), traces)
    assert outcome.vote.weights == weights
    assert outcome.vote.voters == voters
    assert outcome.usage.tokens == 16


def test_deepconf_offline_averages_the_lowest_tenth_of_the_groups():
    """20 groups of one token, 0 ... 19: the lowest two are 0 and 1."""
    policy = DeepConfOffline(measure="bottom_groups", window=1)
    assert policy.measured(np.arange(20.0)) == 0.5


def test_deepconf_offline_without_any_answer():
    outcome = play(DeepConfOffline(), confident([None, None], [[1, 2], [3]]))
    assert outcome.vote.answer_class == NO_ANSWER
    assert outcome.vote.voters == ()


SIMILAR = np.array([
    [1.0, 0.98, 0.2, 0.1],
    [0.98, 1.0, 0.97, 0.3],
    [0.2, 0.97, 1.0, 0.4],
    [0.1, 0.3, 0.4, 1.0],
])  # fmt: skip


def test_slim_sc_by_diversity_stops_the_one_nearer_to_all_others():
    """Mean similarities: 1.28/3, 2.25/3, 1.57/3, 0.8/3. Of the pair 0, 1 (0.98) the second stops,
    at 2 tokens; the pair 1, 2 (0.97) is settled by that. The others run on: 2 + 3 * 10 tokens."""
    policy = SlimSC(variant="diversity", warmup=2, check_every=3)
    outcome = play(policy, group(["a", "a", "b", "b"]), SIMILAR)
    assert outcome.decisions == (Decision(1, StopReason.REDUNDANT, by=0, score=0.98),)
    assert outcome.final.n_tokens.tolist() == [10, 2, 10, 10]
    assert outcome.usage.tokens == 32
    assert outcome.vote.weights == {A: 1.0, B: 2.0}
    assert outcome.vote.answer_class == B


def test_slim_sc_at_random():
    """Seed 0 draws 0.64, then 0.27; below a half the later one stops. Of 0, 1 the earlier stops,
    of 1, 2 the later: 2 + 2 + 2 * 10 tokens, one vote each, and the tie is the earlier trace's."""
    policy = SlimSC(variant="random", warmup=2, check_every=3)
    outcome = play(policy, group(["a", "a", "b", "b"]), SIMILAR)
    assert [(d.trace, d.by, d.score) for d in outcome.decisions] == [(0, 1, 0.98), (2, 1, 0.97)]
    assert outcome.usage.tokens == 24
    assert outcome.vote.weights == {A: 1.0, B: 1.0}
    assert outcome.vote.answer_class == A


def test_slim_sc_compares_running_traces_only():
    """Trace 0 has ended by the first comparison, so it is neither stopped nor a reason to stop. Of
    1 and 2, as near to each other, the later stops at 2 tokens: 1 + 10 + 2."""
    outcome = play(
        SlimSC(warmup=2, check_every=3), group(["a", "b", "b"], [1, 10, 10]), np.ones((3, 3))
    )
    assert [(d.trace, d.by) for d in outcome.decisions] == [(2, 1)]
    assert outcome.usage.tokens == 13
    assert outcome.vote.voters == (0, 1)


def test_slim_sc_with_an_unreachable_similarity_is_consensus_sampling():
    traces = group(["a", "b", "b", None], [3, 8, 20, 5])
    pruned = play(SlimSC(similarity=1, warmup=2, check_every=3), traces, np.ones((4, 4)))
    consensus = play(Consensus(), traces)
    assert pruned.decisions == ()
    assert pruned.usage.tokens == consensus.usage.tokens
    assert pruned.vote.weights == consensus.vote.weights


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepConf(keep=10), "keep must lie in .0, 1., got 10"),
        (lambda: DeepConf(consensus=0), "consensus must lie in .0, 1. or null, got 0"),
        (lambda: DeepConf(window=0), "window must be >= 1, got 0"),
        (lambda: DeepConfOffline(k=0), "k must be >= 1 or null, got 0"),
        (lambda: DeepConfOffline(measure="least"), "got 'least'"),
        (lambda: SlimSC(similarity=95), "similarity must lie in .0, 1., got 95"),
        (lambda: SlimSC(variant="coin"), "got 'coin'"),
        (lambda: SlimSC(check_every=0), "check_every must be >= 1, got 0"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
