import numpy as np
import pytest
from scipy.special import expit

from deepprune.judge.calibration import Calibration, fit_calibration, negative_log_likelihood


def test_it_finds_the_scale_and_bias_that_made_the_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < expit(0.5 * logits - 1)
    fitted = fit_calibration(logits, labels)
    assert fitted.scale == pytest.approx(0.5, abs=0.05)
    assert fitted.bias == pytest.approx(-1, abs=0.06)


def test_it_improves_the_likelihood_and_keeps_the_order():
    rng = np.random.default_rng(1)
    logits = rng.normal(3, 5, 200)
    labels = rng.random(200) < expit(logits / 8)
    fitted = fit_calibration(logits, labels)
    before = negative_log_likelihood(logits, labels)
    assert negative_log_likelihood(logits, labels, fitted) < before
    assert (np.argsort(fitted(logits)) == np.argsort(logits)).all()
    assert ((fitted(logits) >= 0) & (fitted(logits) <= 1)).all()


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]])
def test_separable_reversed_and_useless_logits_stay_finite(labels):
    fitted = fit_calibration([-2.0, -1.0, 1.0, 2.0], labels)
    assert 0 < fitted.scale < 1000
    assert np.isfinite(fitted.bias)


def test_one_class_leaves_logits_alone():
    assert fit_calibration([1.0, 2.0], [1, 1]) == Calibration() == fit_calibration([], [])


def test_a_scale_is_positive():
    with pytest.raises(ValueError, match="got -1"):
        Calibration(scale=-1)
