import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from deepprune.judge.measure.bootstrap import Interval, bootstrap_draws, bootstrap_questions
from deepprune.judge.measure.metrics import (
    auroc,
    auroc_within,
    average_precision_different,
    brier,
    expected_calibration_error,
    judge_metrics,
    tnr_at_fnr,
)

METRICS = [
    "auroc",
    "auroc_within",
    "tnr_at_fnr_20",
    "average_precision_different",
    "ece",
    "brier",
]


def sample(n_pairs=400, n_questions=12, seed=0):
    """Scores with ties, somewhat related to labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n_pairs)
    scores = np.clip(np.round(rng.normal(0.4 + 0.2 * labels, 0.3), 2), 0, 1)
    return scores, labels, rng.integers(0, n_questions, n_pairs)


def test_against_scikit_learn():
    scores, labels, _ = sample()
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert average_precision_different(scores, labels) == pytest.approx(
        average_precision_score(1 - labels, -scores)
    )
    assert brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores))
    for fnr in (0.0, 0.1, 0.2, 0.5, 1.0):
        fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
        expected = (1 - fpr)[1 - tpr <= fnr + 1e-9].max()
        assert tnr_at_fnr(scores, labels, fnr) == pytest.approx(expected)


def test_within_question_auroc_by_hand():
    """Three questions, pooled .5 though the order within each is mostly right.

    One: same .9, .5, different .7: (.9, .7) won, (.5, .7) lost: 1/2, weight min(2, 1) = 1.
    Two: same .3, .2, different .1, .1: all won: 1, weight 2.
    Three: only same: weight 0. Together (1 * 1/2 + 2 * 1) / 3 = 5/6.
    """
    scores = [0.9, 0.5, 0.7, 0.3, 0.2, 0.1, 0.1, 0.8]
    labels = [1, 1, 0, 1, 1, 0, 0, 1]
    questions = ["one"] * 3 + ["two"] * 4 + ["three"]
    assert auroc_within(scores, labels, questions) == pytest.approx(5 / 6)


def test_a_judge_that_knows_only_the_question_gains_nothing_within():
    scores = [0.9] * 10 + [0.1] * 10
    labels = [1] * 9 + [0] + [0] * 9 + [1]
    assert auroc(scores, labels) == pytest.approx(0.9)
    assert auroc_within(scores, labels, ["easy"] * 10 + ["hard"] * 10) == 0.5


def test_tnr_by_hand():
    """Five "same" pairs: one may be lost, so the threshold is .5, under which lie two of three."""
    scores = [0.9, 0.8, 0.7, 0.5, 0.2, 0.6, 0.4, 0.1]
    assert tnr_at_fnr(scores, [1] * 5 + [0] * 3, 0.2) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="got 20"):
        tnr_at_fnr(scores, [1] * 8, 20)


def test_calibration_error_by_hand():
    """Bins (.1, .1) with one "same", (1., .95) with two: (|1 - .2| + |2 - 1.95|) / 4."""
    assert expected_calibration_error([0.1, 0.1, 1.0, 0.95], [1, 0, 1, 1]) == pytest.approx(
        (0.8 + 0.05) / 4
    )


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [0, 0, 0]])
def test_undefined_is_nan(labels):
    values = judge_metrics([0.1, 0.5, 0.9][: len(labels)], labels, list("abc")[: len(labels)])
    assert math.isnan(values["auroc"])
    assert math.isnan(values["auroc_within"])
    assert math.isnan(values["tnr_at_fnr_20"])
    assert values["n_pairs"] == len(labels)
    interval = bootstrap_questions("auroc", [0.5] * len(labels), labels, labels)
    assert math.isnan(interval.low)


def test_a_sample_without_different_pairs_has_no_average_precision():
    assert math.isnan(average_precision_different([0.4], [1]))
    assert average_precision_different([0.4], [0]) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_a_draw_equals_the_metric_on_the_repeated_questions(metric):
    """Questions repeated as often as drawn; copies of a question keep their own number."""
    scores, labels, questions = sample(150, 6)
    draws = bootstrap_draws(metric, scores, labels, questions, n=20, seed=1)
    from deepprune.core.seeding import generator

    counts = generator(1, "bootstrap").multinomial(6, np.full(6, 1 / 6), size=20)
    for draw, count in zip(draws, counts, strict=True):
        rows = [
            (np.flatnonzero(questions == q), f"{q}/{copy}")
            for q in range(6)
            for copy in range(count[q])
        ]
        index = np.concatenate([r for r, _ in rows])
        names = np.concatenate([[name] * len(r) for r, name in rows])
        assert draw == pytest.approx(judge_metrics(scores[index], labels[index], names)[metric])


def test_clusters_resample_questions_across_models():
    scores, labels, questions = sample()
    whole = bootstrap_draws("auroc_within", scores, labels, questions, n=50)
    by_model = np.array([f"{q}/{i % 2}" for i, q in enumerate(questions)])
    drawn = bootstrap_draws("auroc_within", scores, labels, by_model, clusters=questions, n=50)
    assert drawn.shape == whole.shape
    assert np.std(drawn) > 0


def test_paired_draws_share_their_questions():
    scores, labels, questions = sample()
    first = bootstrap_draws("auroc", scores, labels, questions, seed=3)
    second = bootstrap_draws("auroc", scores / 2, labels, questions, seed=3)
    assert np.abs(first - second).max() < 1e-12


def test_intervals_are_seeded_and_hold_the_value():
    scores, labels, questions = sample()
    interval = bootstrap_questions("auroc", scores, labels, questions, seed=2)
    assert interval == bootstrap_questions("auroc", scores, labels, questions, seed=2)
    assert isinstance(interval, Interval)
    assert interval.low < auroc(scores, labels) < interval.high
    with pytest.raises(ValueError, match="got 'auc'"):
        bootstrap_questions("auc", scores, labels, questions)
