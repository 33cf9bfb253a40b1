"""Losses of pair logits. B: pairs of a batch.

A loss is a module that is called with ``(logits, labels, groups)``, each of shape ``(B,)``, and
returns a scalar. Logits are of "same answer" and are computed in float32 whatever their dtype. A
label is 1 where both traces reach the same answer and 0 where they do not. A group is the number of
one model's traces of one question.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepprune.core.options import Ge, Gt, Share, checked

_LEAST_DISTANCE = 1e-6  # below it |y - p| is constant: to a power below 1 its slope has no bound


def ranking_loss(logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    r"""Compute the logistic pairwise loss within groups: "same" should outscore "different".

    RankNet's cost ``log(1 + exp(-(z_i - z_j)))`` (Burges et al. 2005, eq. 3,
    https://doi.org/10.1145/1102351.1102363), its mean over all i labelled "same" and j "different"
    of a group, then the mean over groups with weights ``min(#same, #different)``: the smooth
    counterpart of the within-question AUROC. What a logit says of the question as a whole cancels.

    Example: logits 2, 0 and 1 of one question with labels 1, 1 and 0 give
    ``(log(1 + e^-1) + log(1 + e^1)) / 2``.

    Args:
        logits: Shape ``(B,)``; computed in float32.
        labels: 1 or 0, shape ``(B,)``.
        groups: Pairs are compared where these are equal, shape ``(B,)``.

    Returns:
        Scalar; 0 where no group has two labels.

    Raises:
        ValueError: If the shapes differ.
    """
    logits, labels = _float_pair(logits, labels)
    if groups.shape != labels.shape:
        raise ValueError(
            f"groups and labels must have the same shape, got {tuple(groups.shape)} and "
            f"{tuple(labels.shape)}."
        )
    total, weight = logits.sum() * 0, logits.new_zeros(())  # zero with a gradient: DDP wants one
    for group in sorted(set(groups.tolist())):
        z, y = logits[groups == group], labels[groups == group]
        above = (y[:, None] > y).float()
        mean = (above * functional.softplus(z - z[:, None])).sum() / above.sum().clamp(min=1e-12)
        comparable = torch.minimum(y.sum(), (1 - y).sum()) * (above.sum() > 0)
        total, weight = total + comparable * mean, weight + comparable
    return total / weight.clamp(min=1e-12)


@checked
class FocalLoss(nn.Module):
    r"""Mean binary focal loss, ``-alpha_t (1 - p_t)^gamma log(p_t)``, natural logarithm.

    Lin et al. 2017, eq. 5 (https://arxiv.org/abs/1708.02002). With ``gamma=0`` and ``alpha=None``
    it is binary cross-entropy.

    Args:
        gamma: Focusing exponent; 0 without ``alpha`` is cross-entropy.
        alpha: Weight of "same answer"; ``None`` weighs both classes 1. The paper names none; 0.5 is
            a guess, and only scales the loss.
    """

    def __init__(self, gamma: Annotated[float, Ge(0)] = 2.0, alpha: Share | None = 0.5) -> None:
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        logits, labels = _float_pair(logits, labels)
        loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if self.gamma > 0:
            # y - p = y (1 - p) - (1 - y) p, exact where p is nearly 0 or 1.
            distance = labels * torch.sigmoid(-logits) - (1 - labels) * torch.sigmoid(logits)
            loss = loss * distance.abs().clamp(min=_LEAST_DISTANCE) ** self.gamma
        if self.alpha is not None:
            loss = loss * (self.alpha * labels + (1 - self.alpha) * (1 - labels))
        return loss.mean()


class BCELoss(nn.Module):
    """Mean binary cross-entropy, computed in float32."""

    def forward(self, logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(*_float_pair(logits, labels))


@checked
class WeightedBCELoss(nn.Module):
    """Mean binary cross-entropy with the positive class weighed ``positive_weight``.

    Args:
        positive_weight: Weight of "same answer" pairs; "different" pairs weigh 1. To weigh
            both classes alike, take ``#different / #same`` of the training pairs.
    """

    def __init__(self, positive_weight: Annotated[float, Gt(0)] = 0.5) -> None:
        super().__init__()
        self.positive_weight = positive_weight

    def forward(self, logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        logits, labels = _float_pair(logits, labels)
        weight = logits.new_tensor(self.positive_weight)
        return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


@checked
class RankingLoss(nn.Module):
    """``(1 - bce_weight) * ranking_loss + bce_weight * cross-entropy``.

    The cross-entropy keeps scores probabilities, of which a threshold makes sense from question to
    question, and learns from batches in which nothing can be compared. A batch needs several pairs
    of one question of both classes: ``QuestionBalancedSampler`` with a ``block`` sees to it.

    Args:
        bce_weight: Share of plain cross-entropy.
    """

    def __init__(self, bce_weight: Share = 0.25) -> None:
        super().__init__()
        self.bce_weight = bce_weight

    def forward(self, logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        ranking = ranking_loss(logits, labels, groups)
        bce = functional.binary_cross_entropy_with_logits(*_float_pair(logits, labels))
        return (1 - self.bce_weight) * ranking + self.bce_weight * bce


def _float_pair(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.shape != labels.shape:
        raise ValueError(
            "logits and labels must have the same shape, got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    return logits.float(), labels.float()
