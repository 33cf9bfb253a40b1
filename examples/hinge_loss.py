"""A loss: a module of logits, labels and groups, each of shape (B,), that returns a scalar."""

from torch import Tensor, nn


class HingeLoss(nn.Module):
    """Mean of ``max(0, margin - y z)``, with y = 1 for "same answer" and -1 otherwise."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        signs = 2 * labels.float() - 1
        return (self.margin - signs * logits.float()).clamp(min=0).mean()
