"""Intervals and tests, against arithmetic that can be done by hand."""

import numpy as np
import pytest

from deepprune.core.statistics import (
    Bootstrap,
    Curve,
    Estimate,
    frontier,
    holm,
    hull,
    mcnemar_p,
    non_inferiority_p,
    order_error,
    quantiles,
    questions_needed,
)


def names(n):
    return [f"q{i}" for i in range(n)]


def column(values):
    """One point, one resample: shape ``(Q, 1, 1)``."""
    return np.asarray(values)[:, None, None]


def width(estimates):
    return estimates[0].high - estimates[0].low


def votes(shape, ks, rng, chances=(0.6, 0.5)):
    """Whether cons@k is right for each k, with two answers: arrays of ``shape`` = (Q, R, P).

    The orders of a question are those of one pool of 16 traces, as in a sweep. Each column is a
    sweep of its own, with other questions, which are right with chances from a Beta distribution.
    """
    n_questions, _, n_sweeps = shape
    pool = rng.random((n_questions, 1, n_sweeps, 16)) < rng.beta(
        *chances, (n_questions, 1, n_sweeps, 1)
    )
    order = rng.permuted(np.broadcast_to(pool, (*shape, 16)), axis=-1)
    n_right = 2 * np.cumsum(order, axis=-1, dtype=np.int16)
    first = order[..., 0]
    return [(n_right[..., k - 1] > k) | ((n_right[..., k - 1] == k) & first) for k in ks]


def coverage(estimates, truth):
    return np.mean([e.low <= truth <= e.high for e in estimates])


@pytest.mark.parametrize(("n_questions", "n_orders"), [(20, 8), (60, 2), (60, 16)])
def test_intervals_of_paired_differences_cover_what_they_say(n_questions, n_orders):
    """cons@4 less cons@1 in 1,000 sweeps: cons@4 is right with 3 p^2 - 2 p^3, p is Beta(.6, .5).

    E p = 6/11, E p^2 = E p * 1.6/2.1, E p^3 = E p^2 * 2.6/3.1.
    """
    one = 6 / 11
    four = one * 1.6 / 2.1 * (3 - 2 * 2.6 / 3.1)
    cons1, cons4 = votes((n_questions, n_orders, 1000), (1, 4), np.random.default_rng(2))
    bootstrap = Bootstrap(names(n_questions), seed=0)
    difference = bootstrap.draws(cons4) - bootstrap.draws(cons1)
    assert 0.93 <= coverage(bootstrap.estimate(difference), four - one) <= 0.97
    assert 0.93 <= coverage(bootstrap.mean(cons4), four) <= 0.97


def test_the_error_over_orders_is_the_spread_of_sweeps_with_other_orders():
    """The same 10 questions in 300 sweeps of 8 orders each."""
    rng = np.random.default_rng(0)
    pool = rng.random((10, 1, 1, 16)) < rng.random((10, 1, 1, 1))
    order = rng.permuted(np.broadcast_to(pool, (10, 8, 300, 16)), axis=-1)
    is_correct = order[..., :3].sum(-1) >= 2
    errors = order_error(is_correct)
    assert np.sqrt((errors**2).mean()) == pytest.approx(is_correct.mean((0, 1)).std(), rel=0.1)
    assert np.isnan(order_error(is_correct[:, :1])).all()


def test_a_constant_has_no_width_and_differences_are_paired():
    """x + .1 and x differ by .1 in every draw; the interval of x itself is 2 * 2.02 sd / sqrt n."""
    bootstrap = Bootstrap(names(40), seed=0)
    (constant,) = bootstrap.mean(np.ones((40, 1, 1)))
    assert constant == Estimate(1.0, 1.0, 1.0)
    values = np.random.default_rng(0).random(40)
    shifted = bootstrap.draws(column(values + 0.1)) - bootstrap.draws(column(values))
    assert width(bootstrap.estimate(shifted)) < 1e-9
    standard_error = values.std(ddof=1) / np.sqrt(40)
    assert width(bootstrap.mean(column(values))) == pytest.approx(
        2 * 2.02 * standard_error, rel=0.05
    )
    assert width(Bootstrap(["q"], seed=0).mean(column([0.5]))) == 0


def test_the_first_row_of_draws_is_the_data():
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    draws = Bootstrap(names(2), seed=0, n_draws=5).draws(values)
    assert draws.shape == (6, 4)
    assert draws[0].tolist() == values.mean(axis=(0, 1)).tolist()
    assert set(draws[:, 1] - draws[:, 0]) == {1.0}  # point 1 is point 0 plus 1 everywhere


def test_the_models_of_a_question_are_drawn_together():
    """Two models, one always right, one always wrong: any draw of questions has mean .5."""
    twice = [name for name in names(20) for _ in range(2)]
    bootstrap = Bootstrap(twice, seed=0)
    assert bootstrap.n_questions == 20
    assert width(bootstrap.mean(column([True, False] * 20))) == 0
    assert width(Bootstrap(names(40), seed=0).mean(column([True, False] * 20))) > 0.2
    by_question = bootstrap.by_question(column([True, False] * 20))
    assert by_question.tolist() == [[0.5]] * 20


def test_a_question_with_more_models_weighs_more():
    """q0 has two rows (1, 1), q1 one (0): mean 2/3 = (4/3 + 0) / 2."""
    bootstrap = Bootstrap(["q0", "q0", "q1"], seed=0)
    shares = bootstrap.by_question(column([1.0, 1.0, 0.0]))[:, 0]
    assert shares == pytest.approx([4 / 3, 0])
    assert bootstrap.draws(column([1.0, 1.0, 0.0]))[0, 0] == pytest.approx(shares.mean())


def test_sums_do_not_depend_on_the_order_of_adding():
    """Equal columns of any dtype have equal draws, whatever stands beside them."""
    rng = np.random.default_rng(0)
    values = rng.random((50, 8, 1)) * 1e15
    bootstrap = Bootstrap(names(50), seed=0, n_draws=50)
    alone = bootstrap.draws(values)
    beside = bootstrap.draws(np.concatenate([rng.random((50, 8, 36)), values], axis=2))[:, 36:]
    assert (alone == beside).all()
    assert alone[0, 0] == pytest.approx(values.mean(), rel=1e-12)
    flags = rng.random((50, 8, 3)) < 0.5
    assert (bootstrap.draws(flags) == bootstrap.draws(flags.astype(np.int64))).all()


def test_ratio_of_sums():
    """(1 + 2) / (2 + 4) = .5 in every draw."""
    bootstrap = Bootstrap(names(2), seed=0)
    assert bootstrap.ratio(column([1, 2]), column([2, 4])) == [Estimate(0.5, 0.5, 0.5)]


def test_quantiles_are_those_of_numpy():
    draws = np.random.default_rng(0).random((102, 3))
    expected = np.quantile(draws[1:], [0.025, 0.05], axis=0)
    assert np.allclose(quantiles(draws, 0.025, 0.05), expected, rtol=1e-14)
    draws[5, 1] = np.nan
    assert np.isnan(quantiles(draws, 0.025)[0]).tolist() == [False, True, False]
    assert Bootstrap(names(3), seed=0).estimate(draws)[1] is None


CURVE = Curve(
    tokens=np.array([[100.0, 200.0, 400.0], [100.0, 200.0, 400.0]]),
    accuracy=np.array([[0.5, 0.7, 0.8], [0.4, 0.7, 0.6]]),
)
"""Three points: the data, and one draw in which the last point does worse."""


def test_matched_tokens_lie_on_the_lines_between_points():
    """At 150 half way: .6, in the draw .55. At 300: .75 and .65. Beyond the ends: the end."""
    tokens = np.array([[150.0, 300.0, 50.0, 900.0]] * 2)
    assert CURVE.accuracy_at(tokens) == pytest.approx(
        np.array([[0.6, 0.75, 0.5, 0.8], [0.55, 0.65, 0.4, 0.6]])
    )


def test_tokens_to_reach_an_accuracy():
    """.6: half way from 100 to 200, in the draw 2/3. .75: 300; the draw never gets there.

    Its running maximum is .4, .7, .7: .7 is reached at 200. Below the first point: its tokens.
    """
    accuracy = np.array([[0.6, 0.75, 0.7, 0.1, 0.9]] * 2)
    assert CURVE.tokens_to_reach(accuracy) == pytest.approx(
        np.array([[150, 300, 200, 100, np.inf], [100 + 200 / 3, np.inf, 200, 100, np.inf]])
    )


def test_a_curve_of_one_point_is_flat():
    curve = Curve(np.array([[100.0]]), np.array([[0.5]]))
    assert curve.accuracy_at(np.array([[50.0, 100.0, 150.0]])).tolist() == [[0.5, 0.5, 0.5]]
    assert curve.tokens_to_reach(np.array([[0.4, 0.6]])).tolist() == [[100.0, np.inf]]


def test_each_draw_orders_the_curve_by_its_own_tokens():
    curve = Curve(np.array([[100.0, 200.0], [200.0, 100.0]]), np.array([[0.5, 0.7], [0.5, 0.7]]))
    assert curve.accuracy_at(np.array([[125.0], [125.0]])) == pytest.approx(
        np.array([[0.55], [0.65]])
    )


def test_the_frontier_leaves_out_what_is_beaten():
    """(2, .5) is beaten by (1, .6), (3, .6) costs more for the same, (1, .4) loses at a tie."""
    tokens = np.array([3.0, 2.0, 1.0, 1.0, 4.0])
    accuracy = np.array([0.6, 0.5, 0.6, 0.4, 0.7])
    assert frontier(tokens, accuracy).tolist() == [2, 4]


def test_the_hull_by_hand():
    """(1, .4), (3, .7), (6, .75) are its vertices: at 2 tokens a coin has .55, more than .5.

    (4, .71) lies on neither side by slopes .1, .01 and .02: below the line, .7167 at 4. (7, .75)
    costs more for the same.
    """
    tokens, accuracy = np.array([6.0, 1, 2, 3, 7, 4]), np.array([0.75, 0.4, 0.5, 0.7, 0.75, 0.71])
    assert hull(tokens, accuracy).tolist() == [1, 3, 0]
    assert hull(tokens[:1], accuracy[:1]).tolist() == [0]


def test_the_interval_against_the_hull_covers_a_mixture():
    """A coin for each question between cons@1 and cons@4 lies on the hull of cons@1, 4 and 16."""
    rng = np.random.default_rng(0)
    shape, ks = (60, 8, 300), np.array([1.0, 4, 16])
    accuracy = np.stack(votes(shape, (1, 4, 16), rng, chances=(3, 2)), axis=2)
    is_one = rng.random(shape) < 0.5
    mixed = np.where(is_one, accuracy[:, :, 0], accuracy[:, :, 1])
    bootstrap = Bootstrap(names(60), seed=0, n_draws=500)
    gained, spent = bootstrap.draws(mixed), bootstrap.draws(np.where(is_one, 1, 4))
    gains = []
    for sweep in range(shape[-1]):
        draws = bootstrap.draws(accuracy[..., sweep])
        vertices = hull(ks, draws[0])
        curve = Curve(np.broadcast_to(ks[vertices], (501, len(vertices))), draws[:, vertices])
        gains.append(gained[:, sweep] - curve.accuracy_at(spent[:, [sweep]])[:, 0])
    assert 0.93 <= coverage(bootstrap.estimate(np.stack(gains, axis=1)), 0.0) <= 0.97


def test_mcnemar_by_hand():
    """b=1, c=6: 2 (1 + 7) / 2^7 = .125. 0, 5: 2 / 2^5. 3, 3 and 0, 0: no more than 1."""
    p = mcnemar_p(np.array([1, 6, 0, 3, 0, 1]), np.array([6, 1, 5, 3, 0, 6]))
    assert p == pytest.approx([0.125, 0.125, 0.0625, 1, 1, 0.125])


def test_holm_by_hand():
    """Sorted .01, .03, .04 times 3, 2, 1: .03, .06, .04; never below the one before: .06."""
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert len(holm(np.array([]))) == 0


def test_non_inferiority_by_hand():
    """Whole losses: the binomial test. 2 of 100, margin 5 points: P(X <= 2) = .1183.

    None of n: (1 - margin)^n, below .05 from 299 questions on at 1 point.
    """
    losses = -(np.arange(100) < 2).astype(float)[:, None]
    assert non_inferiority_p(losses, 0.05)[0] == pytest.approx(0.1183, abs=0.003)
    for n, p in ((298, 0.99**298), (299, 0.99**299)):
        assert non_inferiority_p(np.zeros((n, 1)), 0.01)[0] == pytest.approx(p)
    assert non_inferiority_p(-np.ones((9, 1)), 0.01)[0] == 1


@pytest.mark.parametrize(
    ("n", "margin", "values", "shares"),
    [
        (400, 0.01, (-1, 0), (0.01, 0.99)),
        (400, 0.01, (-1, 0, 0.05), (0.015, 0.885, 0.1)),
        (80, 0.05, (-0.6, 0, 0.1), (0.1, 0.8, 0.1)),
        (500, 0.01, (-1, 0, 1), (0.02, 0.97, 0.01)),
    ],
)
def test_a_loss_of_the_margin_passes_in_at_most_5_percent(n, margin, values, shares):
    """1,000 sweeps whose true loss is the margin; in the first three a bootstrap errs in 8-11 %."""
    assert np.dot(values, shares) == pytest.approx(-margin)
    drawn = np.random.default_rng(0).choice(values, p=shares, size=(n, 1000))
    assert (non_inferiority_p(drawn, margin) < 0.05).mean() <= 0.05


@pytest.mark.parametrize(("size", "margin"), [(1, 0.05), (0.5, 0.03)])
def test_questions_needed_have_the_power_that_is_promised(size, margin):
    """One question in ten differs, either way alike: about 80 of 100 such sweeps show it."""
    n = int(questions_needed(size * np.sqrt(0.1), margin))
    values = np.random.default_rng(0).choice([-size, 0, size], p=[0.05, 0.9, 0.05], size=(n, 1000))
    assert (non_inferiority_p(values, margin) < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_without_a_difference_the_rule_of_three_is_needed():
    assert questions_needed(np.array([0.0, 0.0]), 0.01).tolist() == [299, 299]
    assert int(questions_needed(0.0, 0.03)) == 99
