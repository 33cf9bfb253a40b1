"""A judge: it scores pairs of prefixes."""

import numpy as np

from deepprune.judge.base import Judge, JudgeProvenance


class SameLength(Judge):
    """Expects the same answer from prefixes of about the same length in characters."""

    is_symmetric = True

    def __init__(self, scale: float = 100.0) -> None:
        self.scale = scale

    @property
    def provenance(self):
        return JudgeProvenance("same_length", f"same-length-{self.scale}")

    def score(self, pairs):
        gaps = [abs(len(pair.first.text) - len(pair.second.text)) for pair in pairs]
        return np.exp(-np.array(gaps) / self.scale)
