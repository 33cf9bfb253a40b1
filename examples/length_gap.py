"""A learner: an architecture that train.py trains, and the judge that it becomes."""

import numpy as np

from deepprune.core.protocols import TEXT_ALONE
from deepprune.judge.network.columns import ColumnInputs, ColumnModel
from deepprune.judge.trained import TrainedJudge


def gaps(pairs):
    """Return the difference of the lengths of each pair, in thousands of characters."""
    return np.array([[abs(len(p.first.text) - len(p.second.text)) / 1000] for p in pairs])


class LengthGapJudge(TrainedJudge):
    """Weighs the difference of two lengths."""

    kind = "length_gap"
    is_symmetric = True

    def __init__(self, weight, bias, **about):
        super().__init__(**about)
        self.weight, self.bias = weight, bias

    @property
    def settings(self):
        return {"weight": self.weight, "bias": self.bias}

    def logits(self, pairs):
        return self.weight * gaps(pairs)[:, 0] + self.bias


class LengthGap:
    """The architecture of `model=length_gap`."""

    name = "length_gap"
    needs = TEXT_ALONE
    shares_heads = False

    @property
    def encoding(self):
        return lambda pairs: ColumnInputs(gaps(pairs))

    def build(self, inputs=None):
        return ColumnModel(n_columns=1)  # any module that returns a logit a pair

    def judge(self, model, seen_questions):
        (layer,) = model.layers
        return LengthGapJudge(
            layer.weight.item(), layer.bias.item(), name=self.name, seen_questions=seen_questions
        )
