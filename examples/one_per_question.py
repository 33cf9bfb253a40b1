"""A sampler: it draws the pairs of an epoch; base class, seed and rank do the rest."""

from dataclasses import dataclass

import numpy as np

from deepprune.data.samplers import PairSampler


@dataclass(eq=False)
class OnePerQuestion(PairSampler):
    """One random pair of every question and model per epoch."""

    @property
    def epoch_length(self):
        return len(np.unique(self.groups))

    def _draw(self, rng):
        order = rng.permutation(len(self.groups))
        _, first = np.unique(self.groups[order], return_index=True)
        return rng.permutation(order[first])
