"""Platt scaling: logits to probabilities, fitted on validation pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from deepprune.protocols import FloatArray

_MIN_LOG_SCALE, _MAX_LOG_SCALE = -7.0, 5.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """``score = sigmoid(scale * logit + bias)``; ``scale > 0`` keeps the order of pairs.

    Raises:
        ValueError: If ``scale`` is not positive.
    """

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be > 0, got {self.scale}: it would turn the order round.")

    def __call__(self, logits: ArrayLike) -> FloatArray:
        """Scores in [0, 1] of logits, float64, same shape."""
        return np.asarray(expit(self.scale * np.asarray(logits, dtype=np.float64) + self.bias))


def negative_log_likelihood(
    logits: ArrayLike, labels: ArrayLike, calibration: Calibration | None = None
) -> float:
    """Mean ``-log p(label)`` of calibrated logits, natural logarithm."""
    calibration = calibration or Calibration()
    z = calibration.scale * np.asarray(logits, dtype=np.float64) + calibration.bias
    return float(np.mean(np.logaddexp(0.0, -(2 * np.asarray(labels) - 1) * z)))


def fit_calibration(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Scale and bias with the least negative log-likelihood, by L-BFGS over (log scale, bias).

    Platt 1999, "Probabilistic outputs for support vector machines", without its smoothed targets.
    With fewer than two classes there is nothing to fit, and the identity is returned.

    Args:
        logits: Shape ``(P,)``.
        labels: 1 or 0, shape ``(P,)``.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if z.shape != y.shape:
        raise ValueError(f"logits and labels must have one shape, got {z.shape} and {y.shape}.")
    if not z.size or y.min() == y.max():
        return Calibration()

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        scale, bias = np.exp(parameters[0]), parameters[1]
        residual = expit(scale * z + bias) - y
        value = np.mean(np.logaddexp(0.0, -(2 * y - 1) * (scale * z + bias)))
        return float(value), np.array([np.mean(residual * z) * scale, residual.mean()])

    bounds = [(_MIN_LOG_SCALE, _MAX_LOG_SCALE), (None, None)]
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds)
    return Calibration(float(np.exp(found.x[0])), float(found.x[1]))
