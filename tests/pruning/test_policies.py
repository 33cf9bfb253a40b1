"""DeepPrune and consensus sampling on hand-worked examples, driven against the replay engine."""

import json

import numpy as np
import pytest
from builders import group, play

from deepprune.core.types import NO_ANSWER, StopReason
from deepprune.data.prefixes import FirstTokens
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import ReplayEngine
from deepprune.pruning.voting import plurality, plurality_rows

FOUR = np.zeros((4, 4))
FOUR[0, 1], FOUR[0, 2], FOUR[1, 2] = 0.9, 0.8, 0.1
FOUR[0, 3], FOUR[1, 3], FOUR[2, 3] = 0.4, 0.6, 0.6
"""Greedy at tau = .5: {0, 1} and {2, 3}, similarities .9 and .6; see `test_clustering`."""


def shuffled(traces, seed):
    """The same traces, recorded in another order."""
    order = np.random.default_rng(seed).permutation(len(traces))
    return [traces[i] for i in order]


def decisions(outcome):
    return [(d.trace, d.reason) for d in outcome.decisions]


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        ([0, 1, 1], 1),
        ([1, 0, 0, 1], 1),  # a tie: the class of the trace started first
        ([NO_ANSWER, NO_ANSWER, 2], 2),  # the unanswered do not vote
        ([NO_ANSWER], NO_ANSWER),
    ],
)
def test_plurality(answers, winner):
    assert plurality(answers, range(len(answers))).answer_class == winner
    assert plurality_rows(np.array([answers]), np.ones((1, len(answers)))).tolist() == [winner]


def test_plurality_with_weights():
    assert plurality([0, 1, 1], [0, 1, 2], [3.0, 1.0, 1.0]).answer_class == 0
    assert plurality_rows(np.array([[0, 1, 1]] * 2), np.array([[3, 1, 1], [0, 1, 0.0]])).tolist() \
        == [0, 1]  # fmt: skip


def test_consensus_takes_the_first_k_and_starts_no_more():
    outcome = play(Consensus(2), group(["a", "b", "b", "b"], [3, 4, 5, 6]))
    assert outcome.final.n_tokens.tolist() == [3, 4]
    assert outcome.usage.tokens == 7
    assert outcome.usage.peak_traces == 2


def test_largest_cluster_tokens_and_vote():
    """Six traces of 10 tokens, answers b a a b a c, checkpoint after 4, a perfect judge, K2 = 2.

    Two of the three a's go on: 2 * 10 + 4 * 4 = 36 tokens. The third a is redundant, b, b and c
    are not chosen. The clock: 4 tokens to the checkpoint, 6 more to the end, a step each.
    """
    outcome = play(DeepPrune(FirstTokens(4), max_finishers=2), group(list("baabac")))
    assert outcome.usage.tokens == 36
    assert (outcome.usage.tokens_sequential, outcome.usage.peak_traces) == (10, 6)
    assert outcome.usage.seconds == 10
    assert outcome.vote.answer_class == 1
    assert decisions(outcome) == [
        (0, StopReason.NOT_CHOSEN),
        (3, StopReason.NOT_CHOSEN),
        (4, StopReason.REDUNDANT),
        (5, StopReason.NOT_CHOSEN),
    ]


def test_where_all_are_singletons_the_first_k3_go_on():
    """Nothing is similar: traces 0 and 1 of three go on, 10 + 10 + 4 tokens."""
    policy = DeepPrune(FirstTokens(4), singleton_finishers=2)
    outcome = play(policy, group(list("abc")), similarity=np.zeros((3, 3)))
    assert outcome.usage.tokens == 24
    assert json.dumps(outcome.vote.voters) == "[0, 1]"  # live runs record it


@pytest.mark.parametrize(("vote", "winner"), [("plain", 1), ("size", 0)])
def test_representatives_go_on_alone(vote, winner):
    """b a a a b c: three clusters, three go on: 3 * 10 + 3 * 4 = 42 tokens. One vote each is a tie,
    which goes to b; by size it is 3 for a."""
    policy = DeepPrune(FirstTokens(4), finish="representatives", vote=vote)
    answers = list("baaabc")
    outcome = play(policy, group(answers))
    assert outcome.usage.tokens == 42
    assert answers[outcome.vote.voters[outcome.vote.answer_class]] == "ab"[winner]
    assert outcome.vote.voters == (0, 1, 5)


@pytest.mark.parametrize(
    ("vote", "weights"), [("plain", (1, 1)), ("size", (2, 2)), ("posterior", (1.9, 1.6))]
)
def test_weights_of_representatives(vote, weights):
    """0 stands for itself and 1, similar by .9; 2 for itself and 3, similar by .6."""
    policy = DeepPrune(FirstTokens(4), finish="representatives", vote=vote)
    outcome = play(policy, group(list("aaba")), similarity=FOUR)
    assert tuple(outcome.vote.weights.values()) == pytest.approx(weights)
    assert [(d.trace, d.by, d.score) for d in outcome.decisions] == [(1, 0, 0.9), (3, 2, 0.6)]


def test_traces_that_had_ended_vote_where_no_finisher_has_an_answer():
    """Trace 0 represents all, without an answer; trace 1 had ended before the checkpoint."""
    policy = DeepPrune(FirstTokens(4), finish="representatives")
    outcome = play(policy, group([None, "a", "a"], [10, 3, 10]), similarity=np.ones((3, 3)))
    assert outcome.vote.weights == {0: 1.0}
    assert outcome.vote.voters == (0, 1)


def test_a_trace_that_ended_before_the_checkpoint_is_not_stopped():
    outcome = play(DeepPrune(FirstTokens(4), max_finishers=1), group(list("aab"), 2))
    assert not outcome.decisions
    assert outcome.usage.tokens == 6


@pytest.mark.parametrize("finish", ["largest_cluster", "representatives"])
def test_a_threshold_above_one_is_consensus_sampling(finish):
    """Nothing joins, so with K and K3 large enough every trace finishes and votes."""
    policy = DeepPrune(FirstTokens(4), threshold=1.01, finish=finish)
    for seed in range(5):
        traces = group(shuffled(list("abcab"), seed), shuffled(range(3, 8), seed))
        pruned, full = play(policy, traces, seed=seed), play(Consensus(), traces)
        assert pruned.usage.tokens == full.usage.tokens
        assert pruned.vote == full.vote


def test_the_oracle_never_changes_the_vote():
    """With K2 = all, the largest cluster of a perfect judge is the plurality class itself.

    Ties included: cluster and vote both go to the answer that was started first.
    """
    rng = np.random.default_rng(0)
    policy = DeepPrune(FirstTokens(3), max_finishers=99, singleton_finishers=99)
    for seed in range(50):
        traces = group(rng.choice(list("abcd"), size=9).tolist())
        pruned, full = play(policy, traces, seed=seed), play(Consensus(), traces)
        assert pruned.vote.answer_class == full.vote.answer_class


@pytest.mark.parametrize(
    ("stop_confidence", "started", "tokens", "sequential"),
    [(0.9, 3, 30, 10), (0.95, 6, 30 + 20 + 4, 20), (None, 6, 30 + 20 + 4, 20)],
)
def test_no_further_wave_starts_once_the_vote_is_decided(
    stop_confidence, started, tokens, sequential
):
    """Waves of 3, answers a a a | a a b. Three votes of one kind decide with 1 - .5^4 = .9375.

    The second wave has one cluster of two, which finish, and b, which stops after 4 tokens.
    """
    policy = DeepPrune(FirstTokens(4), wave=3, stop_confidence=stop_confidence)
    outcome = play(policy, group(list("aaaaab")))
    assert len(outcome.final.n_tokens) == started
    assert outcome.usage.tokens == tokens
    assert (outcome.usage.tokens_sequential, outcome.usage.peak_traces) == (sequential, 3)
    assert outcome.vote.voters == tuple(range(3 if started == 3 else 5))
    assert decisions(outcome) == ([] if started == 3 else [(5, StopReason.NOT_CHOSEN)])


def test_waves_of_representatives_are_weighed_by_their_own_clusters():
    """a a b | a b b: two clusters each, of sizes 2 1 and 1 2; a has 2 + 1, b 1 + 2, a came first.

    The last wave of six in waves of 4 has the two that are left.
    """
    policy = DeepPrune(FirstTokens(4), finish="representatives", vote="size", wave=3)
    outcome = play(policy, group(list("aababb")))
    assert outcome.vote.voters == (0, 2, 3, 4)
    assert (outcome.vote.answer_class, outcome.vote.weights) == (0, {0: 3, 1: 3})
    assert outcome.usage.tokens == 4 * 10 + 2 * 4
    uneven = play(DeepPrune(FirstTokens(4), wave=4), group(list("aababb")))
    assert len(uneven.final.n_tokens) == 6
    assert uneven.usage.peak_traces == 4


def test_what_still_runs_is_stopped_once_the_vote_is_decided():
    """Five a's, four of 6 tokens and one of 20, a look every 2 tokens after the checkpoint at 4.

    At 6 tokens four votes decide with 1 - .5^5 = .969; the fifth stops there: 30 tokens.
    """
    traces = group(list("aaaaa"), [6, 6, 6, 6, 20])
    policy = DeepPrune(FirstTokens(4), stop_confidence=0.95, check_every=2)
    outcome = play(policy, traces)
    assert decisions(outcome) == [(4, StopReason.DECIDED)]
    assert (outcome.usage.tokens, outcome.usage.tokens_sequential) == (30, 6)
    assert outcome.vote.weights == {0: 4}
    sure = DeepPrune(FirstTokens(4), stop_confidence=0.97, check_every=2)
    assert play(sure, traces).usage.tokens == 44


def test_replay_hides_an_answer_until_the_trace_has_ended():
    traces = group(["a", "b"], lengths=[3, 9])
    session = ReplayEngine(traces).open(2, seed=0)
    session.start(2)
    seen = session.advance(FirstTokens(5))
    assert sorted(seen.n_tokens.tolist()) == [3, 5]
    assert (seen.answer_class == NO_ANSWER).tolist() == (~seen.is_finished).tolist()
    assert [session.prefix(i).is_finished for i in (0, 1)] == seen.is_finished.tolist()
    session.stop([0, 1])  # one that has ended stays as it is
    assert session.advance(None).is_stopped.tolist() == (~seen.is_finished).tolist()
    assert session.advance(None).n_tokens.sum() == session.usage.tokens == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_clusters": 0}, "max_clusters must be >= 1, got 0"),
        ({"finish": "biggest"}, "got 'biggest'"),
        ({"clustering": "k_means"}, "clustering must be one of greedy, .*, got 'k_means'"),
        ({"wave": 0}, "wave must be >= 1 or null, got 0"),
        ({"stop_confidence": 95}, "stop_confidence must lie in .0, 1. or null, got 95"),
        ({"check_every": 0}, "check_every must be >= 1, got 0"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DeepPrune(FirstTokens(4), **changes)
