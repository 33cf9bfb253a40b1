"""Race and short-m on hand-worked examples, driven against the replay engine."""

import pytest
from builders import group, play, with_forced_answers

from deepprune.core.types import NO_ANSWER, StopReason
from deepprune.pruning.policies.race import Race
from deepprune.pruning.policies.short_m import ShortM


@pytest.mark.parametrize(
    ("budget", "n_tokens", "clock", "weights", "stopped"),
    [
        (19.2, [6, 6], 6, {0: 1}, [1]),  # 1:0 leaves a doubt of 1/4 <= sqrt(12 / 192)
        (19.3, [6, 10, 8, 4], 14, {0: 2, 1: 1}, [3]),
        (28.6, [6, 10, 8, 4], 14, {0: 2, 1: 1}, [3]),  # 2:1, 5/16 <= sqrt(28 / 286.7)
        (28.7, [6, 10, 8, 6, 2], 16, {0: 3, 1: 1}, [4]),
        (91, [6, 10, 8, 6, 2], 16, {0: 3, 1: 1}, [4]),  # 3:1, 3/16 <= sqrt(32 / 910.2)
        (92, [6, 10, 8, 6, 9], 23, {0: 4, 1: 1}, []),  # nothing is left to start
    ],
)
def test_race(budget, n_tokens, clock, weights, stopped):
    """L = 10, two in flight: 6 and 10 tokens from 0 on, 8 from 6 on, 6 from 10 on, 9 from 14 on.

    a, b, a, a, a finish at 6, 10, 14, 16, 23; at 10 the doubt is 1/2 > sqrt(20 / B) for all B > 80.
    """
    outcome = play(Race(width=2, budget=budget), group(list("abaaa"), [6, 10, 8, 6, 9]))
    assert outcome.final.n_tokens.tolist() == n_tokens
    assert (outcome.usage.tokens_sequential, outcome.usage.peak_traces) == (clock, 2)
    assert (outcome.vote.answer_class, outcome.vote.weights) == (0, weights)
    decisions = [(d.trace, d.reason) for d in outcome.decisions]
    assert decisions == [(trace, StopReason.DECIDED) for trace in stopped]


@pytest.mark.parametrize(
    ("flight", "n_tokens", "forced", "weights"),
    [
        (0, [6, 6], 0, {0: 1}),
        (0.25, [6, 6], 3, {0: 1, 1: 0.25}),  # 1:.25, doubt .317 <= sqrt(15 / 140)
        (1, [6, 10, 4], 6, {0: 1, 1: 2}),  # 1:1; at 10 1:1 and a trace of 4 tokens that says 1
    ],
)
def test_traces_in_flight_count_a_part_of_a_vote(flight, n_tokens, forced, weights):
    """L = 10, B = 140, two in flight: a of 6 tokens, b of 10 that says b from 3 on, a of 8.

    Forced answers have 3 tokens and count in T: at 6, 12 + 3; at 10, 20 + 6.
    """
    traces = with_forced_answers(group(list("aba"), [6, 10, 8]), [[], [1, 1], [1, 1]], every=3)
    policy = Race(width=2, budget=14, flight=flight, flight_after=4)
    outcome = play(policy, traces, tokens_per_forced_answer=3)
    assert outcome.final.n_tokens.tolist() == n_tokens
    assert outcome.usage.tokens_forced == outcome.final.tokens_forced == forced
    assert outcome.vote.weights == weights


def test_a_question_that_gives_no_answer_ends_at_a_quarter_of_the_budget():
    """Width 1, B = 120: T = 10, 20, 30 = B / 4."""
    outcome = play(Race(width=1, budget=12), group([None] * 8))
    assert (outcome.usage.tokens, outcome.usage.tokens_sequential) == (30, 30)
    assert (outcome.vote.answer_class, outcome.vote.voters) == (NO_ANSWER, (0, 1, 2))


@pytest.mark.parametrize(
    ("answers", "lengths", "winner"),
    [
        ("ab", [9, 4], 1),  # b finished first
        ("abba", [9, 4, 8, 5], 1),
        ("abb", [4, 4, 9], 1),
        ("ab", [4, 4], 0),  # together: by index
    ],
)
def test_votes_count_in_the_order_of_finishing(answers, lengths, winner):
    outcome = play(Race(width=4, budget=1e9), group(list(answers), lengths))
    assert outcome.vote.answer_class == winner
    assert sorted(outcome.vote.voters) == list(range(len(answers)))


@pytest.mark.parametrize(
    ("m", "clock", "n_tokens", "voters", "winner"),
    [
        (1, 3, [3, 3, 3, 3], (2,), 1),
        (2, 5, [5, 5, 3, 5], (2, 0), 1),  # 0, 1 and 3 finish together, 0 counts
        (3, 5, [5, 5, 3, 5], (2, 0, 1), 0),
        (4, 5, [5, 5, 3, 5], (2, 0, 1, 3), 0),
    ],
)
def test_short_m(m, clock, n_tokens, voters, winner):
    """Four of six start: a, a, b of 5, 5, 3 tokens and one of 5 without an answer."""
    outcome = play(ShortM(k=4, m=m), group(["a", "a", "b", None, "b", "b"], [5, 5, 3, 5, 1, 1]))
    assert outcome.final.n_tokens.tolist() == n_tokens
    assert outcome.usage.tokens_sequential == clock
    assert (outcome.vote.voters, outcome.vote.answer_class) == (voters, winner)


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        (Race, {"width": 0}, "width must be >= 1, got 0"),
        (Race, {"budget": 0}, "budget must be > 0, got 0"),
        (Race, {"flight": 2}, "flight must lie in .0, 1., got 2"),
        (ShortM, {"k": 2, "m": 3}, "m must not exceed k=2, got 3"),
    ],
)
def test_impossible_settings_are_named(policy, settings, message):
    with pytest.raises(ValueError, match=message):
        policy(**settings)
