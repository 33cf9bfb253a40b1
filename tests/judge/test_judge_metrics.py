import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from deepprune.core.seeding import generator
from deepprune.judge.measure.bootstrap import QuestionDraws, estimate
from deepprune.judge.measure.metrics import METRICS, judge_metrics
from deepprune.judge.measure.scored_pairs import PairScores


def sample(n_pairs=400, n_questions=12, seed=0):
    """Scores with ties, somewhat related to labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n_pairs)
    scores = np.clip(np.round(rng.normal(0.4 + 0.2 * labels, 0.3), 2), 0, 1)
    return scores, labels, rng.integers(0, n_questions, n_pairs)


def metric(name, scores, labels, questions=None):
    return judge_metrics(scores, labels, questions or ["one"] * len(labels))[name]


def test_against_scikit_learn():
    scores, labels, questions = sample()
    found = judge_metrics(scores, labels, questions)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["average_precision_different"] == pytest.approx(
        average_precision_score(1 - labels, -scores)
    )
    assert found["brier"] == pytest.approx(brier_score_loss(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert found["tnr_at_fnr_20"] == pytest.approx((1 - fpr)[1 - tpr <= 0.2 + 1e-9].max())


def test_within_question_auroc_by_hand():
    """Three questions, pooled .5 though the order within each is mostly right.

    One: same .9, .5, different .7: (.9, .7) won, (.5, .7) lost: 1/2, weight min(2, 1) = 1.
    Two: same .3, .2, different .1, .1: all won: 1, weight 2.
    Three: only same: weight 0. Together (1 * 1/2 + 2 * 1) / 3 = 5/6.
    """
    scores = [0.9, 0.5, 0.7, 0.3, 0.2, 0.1, 0.1, 0.8]
    labels = [1, 1, 0, 1, 1, 0, 0, 1]
    questions = ["one"] * 3 + ["two"] * 4 + ["three"]
    assert metric("auroc_within", scores, labels, questions) == pytest.approx(5 / 6)


def test_a_judge_that_knows_only_the_question_gains_nothing_within():
    scores = [0.9] * 10 + [0.1] * 10
    labels = [1] * 9 + [0] + [0] * 9 + [1]
    found = judge_metrics(scores, labels, ["easy"] * 10 + ["hard"] * 10)
    assert found["auroc"] == pytest.approx(0.9)
    assert found["auroc_within"] == 0.5


def test_tnr_by_hand():
    """Five "same" pairs: one may be lost, so the threshold is .5, under which lie two of three."""
    scores = [0.9, 0.8, 0.7, 0.5, 0.2, 0.6, 0.4, 0.1]
    assert metric("tnr_at_fnr_20", scores, [1] * 5 + [0] * 3) == pytest.approx(2 / 3)


def test_calibration_error_by_hand():
    """Bins (.1, .1) with one "same", (1., .95) with two: (|1 - .2| + |2 - 1.95|) / 4."""
    found = metric("ece", [0.1, 0.1, 1.0, 0.95], [1, 0, 1, 1])
    assert found == pytest.approx((0.8 + 0.05) / 4)


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [0, 0, 0]])
def test_undefined_is_nan(labels):
    values = judge_metrics([0.1, 0.5, 0.9][: len(labels)], labels, list("abc")[: len(labels)])
    assert math.isnan(values["auroc"])
    assert math.isnan(values["auroc_within"])
    assert math.isnan(values["tnr_at_fnr_20"])
    assert values["n_pairs"] == len(labels)


def test_a_sample_without_different_pairs_has_no_average_precision():
    assert math.isnan(metric("average_precision_different", [0.4], [1]))
    assert metric("average_precision_different", [0.4], [0]) == 1


def test_the_questions_that_within_question_metrics_read_are_counted():
    found = judge_metrics([0.1, 0.5, 0.9, 0.3], [1, 0, 1, 1], ["one", "one", "two", "two"])
    assert (found["n_questions"], found["n_questions_both"]) == (2, 1)


def test_a_score_that_is_no_number_is_refused():
    """It had an AUROC of .5, TNR 0 and an average precision of .5."""
    with pytest.raises(ValueError, match="2 of 3 scores are not a number"):
        judge_metrics([0.1, np.nan, np.nan], [0, 1, 0], ["a", "a", "a"])


def test_the_calibration_error_has_no_interval_and_brier_has_one_that_covers():
    """200 calibrated judges: the error is 0 and never seen as 0; Brier is E s (1 - s) = 1/6."""
    rng = np.random.default_rng(0)
    covered, errors = [], []
    for seed in range(200):
        scores = rng.random(400)
        pairs = scored(scores, (rng.random(400) < scores).astype(int), np.repeat(range(40), 10))
        found = QuestionDraws(pairs.question, seed, n=400).estimates(pairs)
        covered.append(found["brier"].low <= 1 / 6 <= found["brier"].high)
        errors.append(found["ece"])
    assert 0.93 <= np.mean(covered) <= 0.97
    assert min(e.value for e in errors) > 0.03
    assert np.isnan([(e.low, e.high) for e in errors]).all()


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(P,\), got \(2,\), \(2,\), \(3,\)"):
        judge_metrics([0.1, 0.2], [0, 1], ["a", "b", "c"])


def scored(scores, labels, questions, models=None):
    names = np.array([f"{question:02d}" for question in questions], dtype=str)
    models = np.full(len(labels), "m") if models is None else models
    return PairScores(scores, labels, names, models, np.full(len(labels), True))


def test_a_draw_equals_the_metric_on_the_repeated_questions():
    """Questions repeated as often as drawn; copies of a question keep their own number."""
    scores, labels, questions = sample(150, 6)
    pairs = scored(scores, labels, questions)
    measures = QuestionDraws(pairs.question, seed=1, n=20).measure(pairs)
    counts = generator(1, "bootstrap").multinomial(6, np.full(6, 1 / 6), size=20)
    for draw, count in enumerate(counts, 1):
        rows = [
            (np.flatnonzero(questions == q), f"{q}/{copy}")
            for q in range(6)
            for copy in range(count[q])
        ]
        index = np.concatenate([r for r, _ in rows])
        names = np.concatenate([[name] * len(r) for r, name in rows])
        expected = judge_metrics(scores[index], labels[index], names)
        for metric in set(METRICS) - {"ece"}:
            assert measures[metric][draw] == pytest.approx(expected[metric]), metric
            assert measures[f"{metric}_unfinished"][draw] == measures[metric][draw]


def test_questions_are_drawn_with_all_their_models():
    """Whichever question is drawn, model a orders its pairs rightly and model b wrongly: .5."""
    labels = np.tile([1, 0], 20)
    models = np.tile(["a", "a", "b", "b"], 10)
    scores = np.where(models == "a", labels, 1 - labels)
    pairs = scored(scores, labels, np.repeat(range(10), 4), models)
    measures = QuestionDraws(pairs.question, seed=0, n=50).measure(pairs)
    assert set(measures["auroc_within"]) == {0.5}
    assert set(measures["n_questions"]) == {20}


def test_intervals_are_seeded_paired_and_hold_the_value():
    scores, labels, questions = sample()
    pairs, half = scored(scores, labels, questions), scored(scores / 2, labels, questions)
    draws = QuestionDraws(pairs.question, seed=2)
    first = draws.measure(pairs)["auroc"]
    assert np.array_equal(first, QuestionDraws(pairs.question, seed=2).measure(pairs)["auroc"])
    assert np.abs(first - draws.measure(half)["auroc"]).max() < 1e-12
    value, low, high = estimate(first)
    assert low < value < high
    assert value == roc_auc_score(labels, scores)


def test_without_pairs_everything_is_undefined():
    none = scored(*(np.array([], dtype=int),) * 3)
    value, low, high = estimate(QuestionDraws([], seed=0, n=5).measure(none)["auroc"])
    assert np.isnan([value, low, high]).all()
