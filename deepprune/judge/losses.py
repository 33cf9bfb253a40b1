"""Losses for binary pair logits. B: pairs of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def focal_loss(
    logits: Tensor, labels: Tensor, *, gamma: float = 2.0, alpha: float | None = None
) -> Tensor:
    r"""Mean binary focal loss, ``-alpha_t (1 - p_t)^gamma log(p_t)``.

    Lin et al. 2017, eq. 5 (https://arxiv.org/abs/1708.02002). With ``gamma=0`` and ``alpha=None``
    it is binary cross-entropy.

    Args:
        logits: Judge logits for "same answer", shape ``(B,)``; computed in float32 whatever the
            input dtype.
        labels: 1 where both traces reach the same answer, else 0, shape ``(B,)``.
        gamma: Focusing exponent, >= 0. The paper uses 2.
        alpha: Weight of the positive class in [0, 1], ``1 - alpha`` that of the negative class;
            ``None`` weighs both 1.

    Returns:
        Scalar loss, natural logarithm.

    Raises:
        ValueError: If the shapes differ, ``gamma`` is negative or ``alpha`` lies outside [0, 1].
    """
    _check_focal(gamma, alpha)
    logits, labels = _float_pair(logits, labels)
    sign = 2 * labels - 1
    log_p_t = functional.logsigmoid(sign * logits)
    if gamma == 0:
        loss = -log_p_t
    else:
        # 1 - p_t = sigmoid of the negated logit; through logsigmoid its gradient stays finite.
        loss = -torch.exp(gamma * functional.logsigmoid(-sign * logits)) * log_p_t
    if alpha is not None:
        loss = loss * (alpha * labels + (1 - alpha) * (1 - labels))
    return loss.mean()


class FocalLoss(nn.Module):
    """``focal_loss`` with fixed ``gamma`` and ``alpha``.

    Args:
        gamma: Focusing exponent, >= 0.
        alpha: Weight of "same answer" in [0, 1], or ``None``. The paper names none; 0.5 is a guess,
            and only scales the loss.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.5) -> None:
        super().__init__()
        _check_focal(gamma, alpha)
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of ``(B,)`` logits and labels."""
        return focal_loss(logits, labels, gamma=self.gamma, alpha=self.alpha)


class BCELoss(nn.Module):
    """Mean binary cross-entropy, computed in float32."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of ``(B,)`` logits and labels."""
        return functional.binary_cross_entropy_with_logits(*_float_pair(logits, labels))


class WeightedBCELoss(nn.Module):
    """Mean binary cross-entropy with the positive class weighed ``positive_weight``.

    Args:
        positive_weight: Weight of "same answer" pairs, > 0; "different" pairs weigh 1. To weigh
            both classes alike, take ``#different / #same`` of the training pairs.

    Raises:
        ValueError: If the weight is not positive.
    """

    def __init__(self, positive_weight: float) -> None:
        super().__init__()
        if positive_weight <= 0:
            raise ValueError(f"positive_weight must be > 0, got {positive_weight}.")
        self.positive_weight = positive_weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of ``(B,)`` logits and labels."""
        logits, labels = _float_pair(logits, labels)
        weight = logits.new_tensor(self.positive_weight)
        return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


def _check_focal(gamma: float, alpha: float | None) -> None:
    if gamma < 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}. 0 is plain cross-entropy.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha must lie in [0, 1] or be None, got {alpha}. It is the weight of one class."
        )


def _float_pair(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.shape != labels.shape:
        raise ValueError(
            "logits and labels must have the same shape, got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    return logits.float(), labels.float()
