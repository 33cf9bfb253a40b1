"""Policies that decide on answers, final or forced, on hand-worked examples."""

import pytest
from builders import group, play, with_forced_answers

from deepprune.core.types import NO_ANSWER, StopReason
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.early_exit import EarlyExit
from deepprune.pruning.policies.esc import ESC
from deepprune.pruning.policies.mars import MARS, switch_probabilities
from deepprune.pruning.policies.parallel_probe import ParallelProbe
from deepprune.pruning.stopping import (
    beta,
    dirichlet,
    entropy,
    is_decided,
    is_safe,
    majority,
)


def started(outcome):
    return len(outcome.final.n_tokens)


@pytest.mark.parametrize(
    ("rule", "counts", "confidence"),
    [
        (beta, (3,), 1 - 0.5**4),
        (beta, (4, 0), 1 - 0.5**5),
        (beta, (2, 1), 11 / 16),  # P(Binomial(4, 1/2) < 3)
        (beta, (5, 5), 0.5),
        (dirichlet, (3,), 1 - 0.5**4),
        (dirichlet, (2, 2, 2), 1 / 3),
        # Gamma(2) above two Exp(1): E[(1 - e^-x)^2] = 1 - 2/4 + 1/9
        (dirichlet, (1, 0, 0), 11 / 18),
        (majority, (3, 1), 0.75),
        (majority, (1,), 0.0),
        (entropy, (5, 5), 0.0),
        (entropy, (3,), 1 - 0.811278),  # (3, 1): .75 log2(4/3) + .25 * 2 bits
        (entropy, (2, 1, 1), 1 - 1.5 / 1.584963),  # 1.5 bits of log2(3)
    ],
)
def test_confidence_of_votes(rule, counts, confidence):
    assert rule(counts) == pytest.approx(confidence, abs=1e-5)


def test_votes_decide_at_the_confidence_in_any_order():
    assert not is_decided([0, 3], "beta", 0.95)
    assert is_decided([0, 4], "beta", 0.95)
    assert is_decided([1, 3], "majority", 0.75)
    assert not is_decided([], "majority", 0.0)


@pytest.mark.parametrize(
    ("policy", "n", "tokens"),
    [
        (AdaptiveConsistency(0.8), 4, 3 + 4 + 5 + 6),
        (AdaptiveConsistency(0.8, wave=3), 6, 3 + 4 + 5 + 6 + 7 + 8),
        (AdaptiveConsistency(0.8, wave=3, cap=5), 5, 3 + 4 + 5 + 6 + 7),
        (AdaptiveConsistency(0.95, cap=2), 2, 3 + 4),
        (AdaptiveConsistency(0.95), 7, 3 + 4 + 5 + 6 + 7 + 8 + 9),
        (AdaptiveConsistency(0.75, rule="majority"), 4, 3 + 4 + 5 + 6),
    ],
)
def test_adaptive_consistency_stops_once_the_answers_decide(policy, n, tokens):
    """Answers a b a a a a a, lengths 3 ... 9. Beta after each: (1) .75, (1, 1) .5, (2, 1) .6875,
    (3, 1) 1 - 6/32 = .8125, (4, 1) 1 - 7/64 = .89, (5, 1) 1 - 8/128 = .9375,
    (6, 1) 1 - 9/256 = .965, which is all of them. A wave of 3 looks at 3 and 6 only."""
    outcome = play(policy, group(list("abaaaaa"), range(3, 10)))
    assert (started(outcome), outcome.usage.tokens) == (n, tokens)
    assert outcome.usage.peak_traces == min(policy.wave, n)
    assert outcome.vote.answer_class == 0
    assert outcome.vote.voters == tuple(range(n))


def test_adaptive_consistency_counts_answers_only():
    """None, a, a: the share of a is 1 after two answers; one answer alone does not decide."""
    outcome = play(AdaptiveConsistency(0.9, rule="majority"), group([None, "a", "a", "b"]))
    assert started(outcome) == 3


@pytest.mark.parametrize(
    ("policy", "n", "winner"),
    [
        (ESC(2), 6, 1),  # a b | - - | b b
        (ESC(2, cap=5), 5, 1),  # a b | - - | b
        (ESC(3), 7, 1),  # a b - | - b b | a
        (ESC(5, cap=3), 3, 0),  # a b -, a tie: a came first
    ],
)
def test_esc_stops_after_a_window_with_one_answer(policy, n, winner):
    """Answers a b - - b b a, lengths 1 ... 7: n traces cost n (n + 1) / 2. Two traces without an
    answer do not agree."""
    outcome = play(policy, group(["a", "b", None, None, "b", "b", "a"], range(1, 8)))
    assert (started(outcome), outcome.usage.tokens) == (n, n * (n + 1) // 2)
    assert outcome.vote.answer_class == winner


def test_esc_returns_the_answer_of_the_window_that_agrees():
    """a a b a | a c a c | b b b b: five of twelve answers are a, the window says b."""
    outcome = play(ESC(4), group(list("aabaacacbbbb")))
    assert (outcome.vote.answer_class, outcome.vote.weights) == (1, {1: 4})
    assert outcome.vote.voters == (8, 9, 10, 11)


@pytest.mark.parametrize(("length", "weights"), [(12, {1: 2, 0: 1}), (10, {1: 3})])
def test_early_exit_stops_each_trace_a_checkpoint_after_it_settles(length, weights):
    """Final answers b a a -, so b = 0, a = 1; forced answers every 2 tokens, 2 have to agree.

    0 says 1 1 at 4: stops at 6, votes 1, though it would have ended in 0. 1 says - - 0 0: two
    missing answers do not agree; at 10 it stops and votes 0, or ends by itself and votes 1. 2 ends
    at 3, votes 1. 3 says 0 1 0 1, ends at 10 without an answer. Tokens 6 + 10 + 3 + 10 = 29.
    Forced: all 4 at token 2, 0 1 3 at 4, 1 3 at 6, 1 3 at 8: 11, of 3 tokens each.
    """
    traces = with_forced_answers(
        group(["b", "a", "a", None], [10, length, 3, 10]),
        [[1, 1, 1, 1], [-1, -1, 0, 0], [0], [0, 1, 0, 1]],
        every=2,
    )
    outcome = play(EarlyExit(force_every=2, agreeing=2), traces, tokens_per_forced_answer=3)
    assert (outcome.usage.tokens, outcome.usage.tokens_forced) == (29, 33)
    assert {d.reason for d in outcome.decisions} == {StopReason.SETTLED}
    assert [d.trace for d in outcome.decisions] == ([0, 1] if length == 12 else [0])
    assert (outcome.vote.answer_class, outcome.vote.weights) == (1, weights)
    assert outcome.vote.voters == (0, 1, 2, 3)
    assert started(play(EarlyExit(force_every=2, agreeing=2, k=3), traces)) == 3


def test_parallel_probe_prunes_the_deviant_and_stops_on_a_stable_majority():
    """Four traces of 10 tokens, answers forced every 2; stable = 3, warm-up 1, prune after 2, keep
    2.

    2 tokens: 0 1 1 -, majority 1, warm-up. 4: 0 0 1 0, majority 0, first in a row; trace 2
    disagrees with 3/4 of the votes. 6: the same, trace 2 is pruned. 8: 0 0 0, third in a row: all
    stop.
    Tokens 6 + 3 * 8 = 30, forced 4 + 4 + 4 + 3 = 15.
    With 4 to be kept nobody is pruned: 4 * 8 = 32 tokens, 16 forced. With a warm-up of 4, nobody
    is pruned and nothing stops before they all end at 10: 40 tokens, 16 forced.
    """
    traces = with_forced_answers(
        group(list("aabb"), 10), [[0] * 4, [1, 0, 0, 0], [1] * 4, [-1, 0, 0, 0]], every=2
    )

    def settings(**changes):
        return ParallelProbe(
            **{"force_every": 2, "stable": 3, "warmup": 1, "prune_after": 2, "min_active": 2}
            | changes
        )

    outcome = play(settings(), traces, tokens_per_forced_answer=1)
    assert (outcome.usage.tokens, outcome.usage.tokens_forced) == (30, 15)
    assert [(d.trace, d.reason) for d in outcome.decisions] == [
        (2, StopReason.DEVIANT),
        *((trace, StopReason.DECIDED) for trace in (0, 1, 3)),
    ]
    assert outcome.vote.weights == {0: 3}

    kept = play(settings(min_active=4), traces, tokens_per_forced_answer=1)
    assert (kept.usage.tokens, kept.usage.tokens_forced) == (32, 16)
    assert kept.vote.weights == {0: 3, 1: 1}
    late = play(settings(warmup=4), traces, tokens_per_forced_answer=1)
    assert (late.usage.tokens, late.usage.tokens_forced) == (40, 16)
    assert late.vote.weights == {0: 2, 1: 2}
    unsure = play(settings(prune_share=0.8), traces, tokens_per_forced_answer=1)
    assert unsure.usage.tokens == 32


def test_parallel_probe_without_a_majority_does_not_stop():
    """Nobody answers, ever: nothing is stable and nobody deviates."""
    traces = with_forced_answers(group([None] * 4, 10), [[-1] * 4] * 4, every=2)
    policy = ParallelProbe(force_every=2, stable=1, warmup=0, prune_after=1, min_active=1)
    assert play(policy, traces).usage.tokens == 40


def test_mars_bounds_the_margin():
    """5 votes for 0, 3 for 1; expected switches 1 away from 0 and .5 away from 1, gamma = 1.

    Against an unseen answer: 5 > 1.5 + 1. Against 1: 5 - 3 = 2 > 1.5 + 1 - 2 * .5 = 1.5.
    One unanswered trace more: 2 > 2.5 fails. With gamma = .5 then: 2 > .5 * 3.5 - 1.5 * .5 = 1.
    """
    votes = {0: 5.0, 1: 3.0}
    assert is_safe(0, votes, {0: 1.0, 1: 0.5}, gamma=1)
    assert not is_safe(0, votes, {0: 1.0, 1: 0.5, NO_ANSWER: 1.0}, gamma=1)
    assert is_safe(0, votes, {0: 1.0, 1: 0.5, NO_ANSWER: 1.0}, gamma=0.5)
    assert not is_safe(0, {0: 2.0}, {0: 1.0}, gamma=1)  # an unseen answer: 2 > 1 + 1 fails
    assert not is_safe(NO_ANSWER, {}, {NO_ANSWER: 2.0}, gamma=1)


def test_mars_learns_switches_then_stops_when_the_leader_is_safe():
    """Final answers a a b c d a (0 0 1 2 3 0), 8 tokens each, answers forced every 2, 2 warm-up
    traces.

    Warm-up: 0 says 0 0 0, 1 says 1 0 0, both end in 0. Streaks of 1: three, one of them switched,
    q = (1 + 1) / (3 + 2) = .4. Streaks of 2-3: three, none switched, q = 1/5.
    At 2 tokens the others say 1 2 3 -: two votes for 0, expected switches 3 * .4 + 1 = 2.2: not
    safe. At 4 they say 0 2 3 0, streaks 1 2 2 1: four votes for 0, switches 1.2, of them .8 from 0.
    Unseen: 4 > 2. Against 2 or 3: 4 - 1 > 2 - 2 * .2. Safe.
    Tokens 2 * 8 + 4 * 4 = 32; forced 2 * 3 + 4 * 2 = 14.
    """
    traces = with_forced_answers(
        group(list("aabcda"), 8),
        [[0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 2, 2], [3, 3, 3], [-1, 0, 0]],
        every=2,
    )
    outcome = play(MARS(force_every=2, warmup=2), traces, tokens_per_forced_answer=1)
    assert (outcome.usage.tokens, outcome.usage.tokens_forced) == (32, 14)
    assert outcome.usage.peak_traces == 4
    assert [(d.trace, d.reason) for d in outcome.decisions] == [
        (trace, StopReason.DECIDED) for trace in (2, 3, 4, 5)
    ]
    assert outcome.vote.weights == {0: 4, 2: 1, 3: 1}

    history = [(0, 1, 0), (1, 1, 1), (1, 1, 0), (0, 2, 0), (0, 2, 0), (1, 2, 0), (1, 3, -1)]
    q = switch_probabilities(history, [0, 0])
    assert (q[1], q[2], q[3]) == pytest.approx((0.4, 0.2, 0.5))
    assert play(MARS(force_every=2, warmup=6), traces).usage.tokens == 48


def test_mars_does_not_stop_at_first_on_an_answer_that_the_warm_up_did_not_give():
    """Warm-up 0 0, never switched: q = 1/4, then 1/6. The other six say 1 throughout.

    At 2 tokens 6 > 2 * 6/4 and 6 - 2 > 6/2 are safe, but 1 may be a placeholder; at 4 it stops.
    """
    traces = with_forced_answers(group(list("aabbbbbb"), 8), [[0] * 3] * 2 + [[1] * 3] * 6, every=2)
    outcome = play(MARS(force_every=2, warmup=2), traces)
    assert outcome.usage.tokens == 2 * 8 + 6 * 4
    assert outcome.vote.weights == {0: 2, 1: 6}


POLICIES = [
    AdaptiveConsistency(wave=2),
    ESC(2),
    EarlyExit(force_every=2, agreeing=1),
    ParallelProbe(force_every=2, stable=1, warmup=0, prune_after=1, min_active=1),
    MARS(force_every=2, warmup=1),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
@pytest.mark.parametrize("n", [1, 3])
def test_without_any_answer_all_run_to_their_end(policy, n):
    traces = with_forced_answers(group([None] * n, 5), [[-1, -1]] * n, every=2)
    outcome = play(policy, traces)
    assert (started(outcome), outcome.usage.tokens) == (n, 5 * n)
    assert outcome.vote.answer_class == NO_ANSWER
    assert not outcome.decisions


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveConsistency(95), "got 95"),
        (
            lambda: AdaptiveConsistency(rule="mode"),
            "beta, dirichlet, majority, entropy, got 'mode'",
        ),
        (lambda: AdaptiveConsistency(wave=0), "wave must be >= 1, got 0"),
        (lambda: ESC(1), "window must be >= 2, got 1"),
        (lambda: EarlyExit(agreeing=0), "agreeing must be >= 1, got 0"),
        (lambda: ParallelProbe(prune_share=50), "prune_share must lie in .*, got 50"),
        (lambda: MARS(gamma=2), "gamma must lie in .*, got 2"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_replay_does_not_pass_one_forced_answer_off_as_two():
    """Recorded every 10 tokens, asked every 4: at 12 the one of 10 is new, at 16 it is not."""
    traces = with_forced_answers(group(["a"], [40]), [[0, 0, 0]], every=10)
    with pytest.raises(ValueError, match="every 10 tokens: 4 tokens between two looks are too few"):
        play(EarlyExit(force_every=4, agreeing=3), traces)
