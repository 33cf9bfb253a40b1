import math

import pytest
import torch

from deepprune.judge.losses import BCELoss, FocalLoss, WeightedBCELoss, focal_loss

LOGITS = torch.tensor([0.0, math.log(3), -math.log(4)])
LABELS = torch.tensor([1.0, 0.0, 1.0])
RANDOM = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 4
COIN = (torch.arange(64) % 3 == 0).float()


def test_focal_loss_by_hand():
    """Logits 0, log 3, -log 4 are p = 1/2, 3/4, 1/5; with labels 1, 0, 1, p_t = 1/2, 1/4, 1/5.

    gamma 2: (1/2)^2 log 2 + (3/4)^2 log 4 + (4/5)^2 log 5, by 3.
    """
    expected = (0.25 * math.log(2) + 0.5625 * math.log(4) + 0.64 * math.log(5)) / 3
    assert focal_loss(LOGITS, LABELS, gamma=2).item() == pytest.approx(expected)
    weighted = (
        0.3 * 0.25 * math.log(2) + 0.7 * 0.5625 * math.log(4) + 0.3 * 0.64 * math.log(5)
    ) / 3
    assert focal_loss(LOGITS, LABELS, gamma=2, alpha=0.3).item() == pytest.approx(weighted)


def test_focal_loss_without_focus_is_cross_entropy():
    plain = BCELoss()(RANDOM, COIN)
    assert focal_loss(RANDOM, COIN, gamma=0).item() == pytest.approx(plain.item())
    assert FocalLoss(gamma=0, alpha=0.5)(RANDOM, COIN) == pytest.approx(plain.item() / 2)
    assert WeightedBCELoss(1.0)(RANDOM, COIN) == pytest.approx(plain.item())


def test_a_weight_counts_positive_pairs_more():
    """Labels 1, 0, 1 with losses log 2, log 4, log 5 and weight 3 on the positives."""
    expected = (3 * math.log(2) + math.log(4) + 3 * math.log(5)) / 3
    assert WeightedBCELoss(3.0)(LOGITS, LABELS).item() == pytest.approx(expected)


def test_extreme_logits_have_finite_gradients():
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    focal_loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]), gamma=0.5, alpha=0.5).backward()
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_float32():
    loss = FocalLoss()(RANDOM.bfloat16(), COIN)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FocalLoss(gamma=-1), "got -1"),
        (lambda: FocalLoss(alpha=1.5), "got 1.5"),
        (lambda: WeightedBCELoss(0), "got 0"),
        (lambda: focal_loss(LOGITS, LABELS[:2]), r"\(3,\) and \(2,\)"),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()
