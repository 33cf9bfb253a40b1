"""Platt scaling: fitted values, order of scores, and few questions that do not flatten them."""

import json

import numpy as np
import pytest
from scipy.special import expit

from deepprune.core.errors import InputError
from deepprune.judge.calibration import IDENTITY, Platt, fit_calibration, is_flat


def drawn(n, scale, bias, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    return logits, (rng.random(n) < expit(scale * logits + bias)).astype(int)


def test_platt_finds_the_scale_and_bias_that_made_the_labels():
    fitted = fit_calibration(*drawn(20_000, 0.5, -1))
    assert fitted.scale == pytest.approx(0.5, abs=0.05)
    assert fitted.bias == pytest.approx(-1, abs=0.06)


def test_it_keeps_the_order_and_is_read_back_exactly():
    logits, labels = drawn(300, 0.3, 1, seed=1)
    fitted = fit_calibration(logits, labels)
    assert (np.diff(fitted(np.sort(logits))) > 0).all()
    read = Platt.from_json(json.loads(json.dumps(fitted.to_json())))
    assert read == fitted
    assert (read(logits) == fitted(logits)).all()


def test_older_calibrations_are_read_or_refused_by_name():
    assert Platt.from_json({"scale": 2.0, "bias": -1.0}) == Platt(2.0, -1.0)
    with pytest.raises(InputError, match=r"isotonic ended with 0\.2: train with calibration=platt"):
        Platt.from_json({"kind": "isotonic", "logits": [0.0], "scores": [0.5]})


def test_few_questions_do_not_flatten_the_scores():
    """Eight questions of 60 pairs on which the logits happen to mislead are eight, not 480."""
    rng = np.random.default_rng(0)
    logits, questions = rng.normal(0, 1, 480), np.repeat(np.arange(8), 60)
    labels = rng.random(480) < expit(-0.6 * logits + 1)
    fitted = fit_calibration(logits, labels, questions)
    assert fit_calibration(logits, labels).scale < 0.15 < 0.5 < fitted.scale < 1
    assert not is_flat(fitted(logits))
    assert is_flat(Platt(0.01)(logits))


def test_a_known_share_of_same_is_met():
    """Validation has 50 % same, all questions 70 %: classes are weighed, so scores rise to it."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    logits = rng.normal(labels, 1)
    fitted = fit_calibration(logits, labels, same_share=0.7)
    weights = np.where(labels == 1, 0.7, 0.3)
    assert np.average(fitted(logits), weights=weights) == pytest.approx(0.7, abs=0.01)
    assert fitted(logits).mean() > 0.55


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]])
def test_separable_reversed_and_useless_logits_stay_finite(labels):
    fitted = fit_calibration([-2.0, -1.0, 1.0, 2.0], labels)
    scores = fitted([-50.0, -2.0, 0.0, 2.0, 50.0])
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()


def test_one_class_leaves_logits_alone():
    assert fit_calibration([1.0, 2.0], [1, 1]) == IDENTITY
    assert fit_calibration([], []) == IDENTITY


def test_what_would_turn_the_order_round_is_refused():
    with pytest.raises(ValueError, match="got -1"):
        Platt(scale=-1)
