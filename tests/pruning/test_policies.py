"""Policies on hand-worked examples, driven against the replay engine."""

import numpy as np
import pytest
from builders import group

from deepprune.data.prefixes import FirstTokens
from deepprune.engines.replay import ReplayEngine
from deepprune.pruning.clustering import greedy_clusters
from deepprune.pruning.controller import run_question
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.voting import plurality
from deepprune.types import NO_ANSWER, StopReason


def table(matrix):
    """A score function that reads a table."""
    matrix = np.asarray(matrix, dtype=float)
    return lambda pairs: matrix[pairs[:, 0], pairs[:, 1]]


def play(policy, answers, lengths=10, similarity=None, seed=0):
    """Run a policy on one question; the score is 1 where the recorded answers agree."""
    traces = group(answers, lengths)
    session = ReplayEngine([traces]).open(traces.question, traces.model, len(answers), seed)

    def oracle(pairs):
        classes = [session.prefix(i).trace.answer_class for i in range(len(answers))]
        same = [classes[a] == classes[b] != NO_ANSWER for a, b in pairs.tolist()]
        return np.array(same, dtype=float)

    score = oracle if similarity is None else table(similarity)
    outcome = run_question(policy, session, len(answers), score, np.random.default_rng(seed))
    order = [session.prefix(i).trace.sample_id for i in range(len(outcome.final.n_tokens))]
    return outcome, order


def test_greedy_clusters_follow_the_papers_rule():
    """Four traces, tau = 0.5. 1 joins 0 (0.9 > 0.5). 2 against {0, 1}: (0.8 + 0.1) / 2 = 0.45,
    not above: a new cluster. 3 against {0, 1}: 0.5, against {2}: 0.6: joins 2."""
    similarity = np.zeros((4, 4))
    similarity[0, 1], similarity[0, 2], similarity[1, 2] = 0.9, 0.8, 0.1
    similarity[0, 3], similarity[1, 3], similarity[2, 3] = 0.4, 0.6, 0.6
    clusters = greedy_clusters(
        4, table(similarity), np.random.default_rng(0),
        threshold=0.5, max_clusters=32, max_members=10,
    )  # fmt: skip
    assert [c.members for c in clusters] == [[0, 1], [2, 3]]
    assert clusters[1].similarities == pytest.approx([0.45, 0.6])


def test_at_the_cap_a_trace_joins_the_most_similar_cluster():
    similarity = np.zeros((3, 3))
    similarity[0, 2], similarity[1, 2] = 0.1, 0.2
    clusters = greedy_clusters(
        3, table(similarity), np.random.default_rng(0),
        threshold=0.5, max_clusters=2, max_members=10,
    )  # fmt: skip
    assert [c.members for c in clusters] == [[0], [1, 2]]


def test_no_more_members_are_compared_than_k1():
    asked = []

    def score(pairs):
        asked.append(len(pairs))
        return np.ones(len(pairs))

    greedy_clusters(
        6, score, np.random.default_rng(0), threshold=0.5, max_clusters=32, max_members=3
    )
    assert asked == [1, 2, 3, 3, 3]


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


def test_plurality_with_weights():
    assert plurality([0, 1, 1], [0, 1, 2], [3.0, 1.0, 1.0]).answer_class == 0


def test_consensus_takes_the_first_k_and_starts_no_more():
    outcome, _ = play(Consensus(2), ["a", "b", "b", "b"], lengths=[3, 4, 5, 6])
    assert len(outcome.final.n_tokens) == 2
    assert outcome.tokens_generated == int(outcome.final.n_tokens.sum())


def test_largest_cluster_tokens_and_vote():
    """Six traces of 10 tokens, answers a a a b b c, checkpoint after 4, a perfect judge, K2 = 2.

    Two of the three a's go on: 2 * 10 + 4 * 4 = 36 tokens. The third a is redundant, b, b and c
    are not chosen. The clock: 4 tokens to the checkpoint, 6 more to the end, 0.02 s each.
    """
    policy = DeepPrune(FirstTokens(4), max_finishers=2)
    outcome, order = play(policy, list("aaabbc"))
    assert outcome.tokens_generated == 36
    assert outcome.seconds == pytest.approx(0.2)
    assert outcome.vote.answer_class == 0
    reasons = sorted(("aaabbc"[order[d.trace]], d.reason) for d in outcome.decisions)
    assert reasons == [
        ("a", StopReason.REDUNDANT),
        ("b", StopReason.NOT_CHOSEN),
        ("b", StopReason.NOT_CHOSEN),
        ("c", StopReason.NOT_CHOSEN),
    ]


@pytest.mark.parametrize(("vote", "winner"), [("plain", {0, 1, 2}), ("size", {0})])
def test_representatives_go_on_alone(vote, winner):
    """a a a b b c: three clusters, three go on: 3 * 10 + 3 * 4 = 42 tokens."""
    policy = DeepPrune(FirstTokens(4), finish="representatives", vote=vote)
    outcome, _ = play(policy, list("aaabbc"))
    assert outcome.tokens_generated == 42
    assert outcome.vote.answer_class in winner
    assert len(outcome.vote.voters) == 3


def test_a_trace_that_ended_before_the_checkpoint_is_not_stopped():
    outcome, _ = play(DeepPrune(FirstTokens(4), max_finishers=1), list("aab"), lengths=[2, 2, 2])
    assert not outcome.decisions
    assert outcome.tokens_generated == 6


@pytest.mark.parametrize("finish", ["largest_cluster", "representatives"])
def test_a_threshold_above_one_is_consensus_sampling(finish):
    """Nothing joins, so with K and K3 large enough every trace finishes and votes."""
    answers = list("abcab")
    policy = DeepPrune(FirstTokens(4), threshold=1.01, finish=finish)
    for seed in range(5):
        pruned, _ = play(policy, answers, seed=seed)
        full, _ = play(Consensus(), answers, seed=seed)
        assert pruned.tokens_generated == full.tokens_generated
        assert pruned.vote == full.vote


def test_the_oracle_never_changes_the_vote():
    """With K2 = all, the largest cluster of a perfect judge is the plurality class itself.

    Ties included: cluster and vote both go to the answer that was started first.
    """
    rng = np.random.default_rng(0)
    policy = DeepPrune(FirstTokens(3), max_finishers=99, singleton_finishers=99)
    for seed in range(50):
        answers = rng.choice(list("abcd"), size=9).tolist()
        pruned, _ = play(policy, answers, seed=seed)
        full, _ = play(Consensus(), answers, seed=seed)
        assert pruned.vote.answer_class == full.vote.answer_class


def test_replay_hides_an_answer_until_the_trace_has_ended():
    traces = group(["a", "b"], lengths=[3, 9])
    session = ReplayEngine([traces]).open(traces.question, "tiny", 2, seed=0)
    session.start(2)
    seen = session.advance(FirstTokens(5))
    assert sorted(seen.n_tokens.tolist()) == [3, 5]
    assert (seen.answer_class == NO_ANSWER).tolist() == (~seen.is_finished).tolist()
    session.stop([i for i in (0, 1) if not seen.is_finished[i]])
    assert session.advance(None).n_tokens.sum() == session.tokens_generated == 8


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="max_clusters must be at least 1, got 0"):
        DeepPrune(FirstTokens(4), max_clusters=0)
    with pytest.raises(ValueError, match="got 'biggest'"):
        DeepPrune(FirstTokens(4), finish="biggest")
