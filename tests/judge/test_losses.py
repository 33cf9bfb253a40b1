import math

import pytest
import torch

from deepprune.judge.network.losses import (
    BCELoss,
    FocalLoss,
    RankingLoss,
    WeightedBCELoss,
    ranking_loss,
)

LOGITS = torch.tensor([0.0, math.log(3), -math.log(4)])
LABELS = torch.tensor([1.0, 0.0, 1.0])
RANDOM = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 4
COIN = (torch.arange(64) % 3 == 0).float()
ONE, MANY = torch.zeros(3, dtype=torch.int64), torch.arange(64) // 8


def focal_loss(logits, labels, gamma=2.0, alpha=None):
    return FocalLoss(gamma, alpha)(logits, labels, torch.zeros(len(labels)))


def test_focal_loss_by_hand():
    """Logits 0, log 3, -log 4 are p = 1/2, 3/4, 1/5; with labels 1, 0, 1, p_t = 1/2, 1/4, 1/5.

    gamma 2: (1/2)^2 log 2 + (3/4)^2 log 4 + (4/5)^2 log 5, by 3; gamma 1/2: roots, not squares.
    """
    expected = (0.25 * math.log(2) + 0.5625 * math.log(4) + 0.64 * math.log(5)) / 3
    assert focal_loss(LOGITS, LABELS, gamma=2).item() == pytest.approx(expected)
    roots = (0.5**0.5 * math.log(2) + 0.75**0.5 * math.log(4) + 0.8**0.5 * math.log(5)) / 3
    assert focal_loss(LOGITS, LABELS, gamma=0.5).item() == pytest.approx(roots)
    weighted = (
        0.3 * 0.25 * math.log(2) + 0.7 * 0.5625 * math.log(4) + 0.3 * 0.64 * math.log(5)
    ) / 3
    assert focal_loss(LOGITS, LABELS, gamma=2, alpha=0.3).item() == pytest.approx(weighted)


def test_focal_loss_without_focus_is_cross_entropy():
    plain = BCELoss()(RANDOM, COIN, MANY)
    assert focal_loss(RANDOM, COIN, gamma=0).item() == pytest.approx(plain.item())
    assert FocalLoss(gamma=0, alpha=0.5)(RANDOM, COIN, MANY) == pytest.approx(plain.item() / 2)
    assert WeightedBCELoss(1.0)(RANDOM, COIN, MANY) == pytest.approx(plain.item())


def test_a_weight_counts_positive_pairs_more():
    """Labels 1, 0, 1 with losses log 2, log 4, log 5 and weight 3 on the positives."""
    expected = (3 * math.log(2) + math.log(4) + 3 * math.log(5)) / 3
    assert WeightedBCELoss(3.0)(LOGITS, LABELS, ONE).item() == pytest.approx(expected)


def test_extreme_logits_have_finite_gradients():
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    focal_loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]), gamma=0.5, alpha=0.5).backward()
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_float32():
    loss = FocalLoss()(RANDOM.bfloat16(), COIN, MANY)
    assert loss.dtype == torch.float32


def test_ranking_loss_by_hand():
    """Question 0: z = 2, 0 | 1, two comparisons, weight 1; question 1: z = 3, 1 | 0, 0, four,
    weight 2; question 2 has one class and counts nothing."""
    logits = torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0, 0.0, 0.0, 9.0])
    labels = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])

    def cost(gap):
        return math.log(1 + math.exp(-gap))

    first = (cost(1) + cost(-1)) / 2
    second = (2 * cost(3) + 2 * cost(1)) / 4
    expected = (first + 2 * second) / 3
    assert ranking_loss(logits, labels, groups).item() == pytest.approx(expected)
    whole_question = logits + torch.tensor([5.0, -7.0, 4.0])[groups]
    assert ranking_loss(whole_question, labels, groups).item() == pytest.approx(expected, rel=1e-5)
    mixed = RankingLoss(bce_weight=0.25)(logits, labels, groups).item()
    bce = BCELoss()(logits, labels, groups).item()
    assert mixed == pytest.approx(0.75 * expected + 0.25 * bce)


def test_a_batch_without_a_comparison_still_trains():
    labels, logits = torch.ones(3), LOGITS.clone().requires_grad_()
    loss = RankingLoss(0.25)(logits, labels, ONE)
    assert loss.item() == pytest.approx(0.25 * BCELoss()(LOGITS, labels, ONE).item())
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).any()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FocalLoss(gamma=-1), "got -1"),
        (lambda: FocalLoss(alpha=1.5), "got 1.5"),
        (lambda: WeightedBCELoss(0), "got 0"),
        (lambda: focal_loss(LOGITS, LABELS[:2]), r"\(3,\) and \(2,\)"),
        (lambda: ranking_loss(LOGITS, LABELS, MANY), r"\(64,\) and \(3,\)"),
        (lambda: RankingLoss(2), "got 2"),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()
