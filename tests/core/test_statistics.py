"""Intervals and tests, against arithmetic that can be done by hand."""

import numpy as np
import pytest
from scipy.special import ndtri

from deepprune.core.statistics import (
    Curve,
    Estimate,
    NestedBootstrap,
    estimate,
    frontier,
    holm,
    is_non_inferior,
    mcnemar_p,
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


def test_a_constant_has_no_width_and_differences_are_paired():
    """x + .1 and x differ by .1 in every draw; the interval of x itself is 2 * 1.96 sd / sqrt n."""
    bootstrap = NestedBootstrap(names(40), 1, seed=0)
    (constant,) = bootstrap.mean(np.ones((40, 1, 1)))
    assert constant == Estimate(1.0, 1.0, 1.0)
    values = np.random.default_rng(0).random(40)
    shifted = bootstrap.draws(column(values + 0.1)) - bootstrap.draws(column(values))
    assert width(estimate(shifted)) < 1e-9
    standard_error = values.std(ddof=1) / np.sqrt(40)
    assert width(bootstrap.mean(column(values))) == pytest.approx(
        2 * 1.96 * standard_error, rel=0.1
    )


def test_the_first_row_of_draws_is_the_data():
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    draws = NestedBootstrap(names(2), 3, seed=0, n_draws=5).draws(values)
    assert draws.shape == (6, 4)
    assert draws[0].tolist() == values.mean(axis=(0, 1)).tolist()
    assert set(draws[:, 1] - draws[:, 0]) == {1.0}  # point 1 is point 0 plus 1 everywhere


def test_the_nested_interval_is_wider_where_resamples_differ():
    """Each question is right in half of its 4 orders: questions agree, their orders do not.

    Drawing questions alone sees no spread. An order is a coin of sd .5, so the mean of 30 x 4
    has a standard error of .5 / sqrt(120).
    """
    values = np.tile([[True, False, True, False]], (30, 1))[:, :, None]
    nested = NestedBootstrap(names(30), 4, seed=0).mean(values)
    questions_alone = NestedBootstrap(names(30), 1, seed=0).mean(column(values.mean(axis=1)[:, 0]))
    assert width(questions_alone) == 0
    assert width(nested) == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(120), rel=0.1)


def test_the_models_of_a_question_are_drawn_together():
    """Two models, one always right, one always wrong: any draw of questions has mean .5."""
    twice = [name for name in names(20) for _ in range(2)]
    bootstrap = NestedBootstrap(twice, 1, seed=0)
    assert bootstrap.n_questions == 20
    assert width(bootstrap.mean(column([True, False] * 20))) == 0
    assert width(NestedBootstrap(names(40), 1, seed=0).mean(column([True, False] * 20))) > 0.2
    by_question = bootstrap.by_question(column([True, False] * 20))
    assert by_question.tolist() == [[0.5]] * 20


def test_a_question_with_more_models_weighs_more():
    """q0 has two rows (1, 1), q1 one (0): mean 2/3 = (4/3 + 0) / 2."""
    bootstrap = NestedBootstrap(["q0", "q0", "q1"], 1, seed=0)
    shares = bootstrap.by_question(column([1.0, 1.0, 0.0]))[:, 0]
    assert shares == pytest.approx([4 / 3, 0])
    assert bootstrap.draws(column([1.0, 1.0, 0.0]))[0, 0] == pytest.approx(shares.mean())


def test_sums_do_not_depend_on_the_order_of_adding():
    """Equal columns of any dtype have equal draws, whatever stands beside them."""
    rng = np.random.default_rng(0)
    values = rng.random((50, 8, 1)) * 1e15
    bootstrap = NestedBootstrap(names(50), 8, seed=0, n_draws=50)
    alone = bootstrap.draws(values)
    beside = bootstrap.draws(np.concatenate([rng.random((50, 8, 36)), values], axis=2))[:, 36:]
    assert (alone == beside).all()
    assert alone[0, 0] == pytest.approx(values.mean(), rel=1e-12)
    flags = rng.random((50, 8, 3)) < 0.5
    assert (bootstrap.draws(flags) == bootstrap.draws(flags.astype(np.int64))).all()


def test_ratio_of_sums():
    """(1 + 2) / (2 + 4) = .5 in every draw."""
    bootstrap = NestedBootstrap(names(2), 1, seed=0)
    assert bootstrap.ratio(column([1, 2]), column([2, 4])) == [Estimate(0.5, 0.5, 0.5)]


def test_quantiles_are_those_of_numpy():
    draws = np.random.default_rng(0).random((102, 3))
    expected = np.quantile(draws[1:], [0.025, 0.05], axis=0)
    assert np.allclose(quantiles(draws, 0.025, 0.05), expected, rtol=1e-14)
    draws[5, 1] = np.nan
    assert np.isnan(quantiles(draws, 0.025)[0]).tolist() == [False, True, False]
    assert estimate(draws)[1] is None


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


def test_mcnemar_by_hand():
    """b=1, c=6: 2 (1 + 7) / 2^7 = .125. 0, 5: 2 / 2^5. 3, 3 and 0, 0: no more than 1."""
    p = mcnemar_p(np.array([1, 6, 0, 3, 0, 1]), np.array([6, 1, 5, 3, 0, 6]))
    assert p == pytest.approx([0.125, 0.125, 0.0625, 1, 1, 0.125])


def test_holm_by_hand():
    """Sorted .01, .03, .04 times 3, 2, 1: .03, .06, .04; never below the one before: .06."""
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert len(holm(np.array([]))) == 0


def test_questions_needed_by_hand():
    """z = 1.6449 + .8416: sd .2 at 1 point (2.4865 * 20)^2 = 2473.02; sd 0: 3 / margin."""
    assert questions_needed(np.array([0.2, 0.0, 0.1]), 0.01).tolist() == [2474, 300, 619]
    assert int(questions_needed(0.0, 0.03)) == 100


def test_non_inferiority_needs_a_bound_above_the_margin_and_questions_enough():
    """100 questions, sd .1: the bound of a difference of 0 is -1.645 * .01, within 3 points.

    Without any difference, 3 / 100 is left open: enough for 3 points, not for 1.
    """
    rng = np.random.default_rng(0)
    noisy = np.r_[0, rng.normal(0, 0.01, 4000)][:, None]
    assert quantiles(noisy, 0.05)[0][0] == pytest.approx(ndtri(0.05) * 0.01, rel=0.05)
    differences = np.hstack([noisy, noisy - 0.02, np.zeros_like(noisy)])
    assert is_non_inferior(differences, 100, 0.03).tolist() == [True, False, True]
    assert is_non_inferior(differences, 100, 0.01).tolist() == [False, False, False]
    assert is_non_inferior(differences, 99, 0.03).tolist() == [False, False, False]
    assert is_non_inferior(differences, 300, 0.01).tolist() == [False, False, True]


def test_questions_needed_have_the_power_that_is_promised():
    """One question in ten differs, either way alike: about 80 of 100 such sweeps show it."""
    rng = np.random.default_rng(0)
    n = int(questions_needed(np.sqrt(0.1), 0.05))
    values = rng.choice([-1, 0, 1], p=[0.05, 0.9, 0.05], size=(n, 1, 400))
    draws = NestedBootstrap(names(n), 1, seed=0, n_draws=500).draws(values)
    assert is_non_inferior(draws, n, 0.05).mean() == pytest.approx(0.8, abs=0.05)
