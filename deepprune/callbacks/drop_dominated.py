"""Watcher: drop grid points that another one beats by several standard errors."""

from __future__ import annotations

import numpy as np

from deepprune.core.errors import InputError
from deepprune.evaluation.outcomes import Outcomes
from deepprune.evaluation.watcher import SweepPlan, Watcher
from deepprune.pruning.policies.consensus import Consensus


class DropDominated(Watcher):
    """Stops evaluating a point once another is cheaper and more accurate beyond its interval.

    A point is dominated if another needs no more FLOPs (judge included) and, in paired differences
    over questions, its accuracy is higher by more than ``z`` standard errors, each at least 1 / n:
    n questions without a difference do not make one certain. The curve of cons@k always stays.
    Looks repeat and points are many, so ``z`` is well above 1.96; it is not corrected for their
    number. A point is compared with those of its own judge, of the sweep's first judge and of none,
    so that an oracle in ``sweep.judges`` drops no other judge's points.

    Args:
        look_every: Questions between two looks, at least 2.
        z: Standard errors that a point must be behind by.
    """

    def __init__(self, look_every: int = 20, z: float = 3.0) -> None:
        if look_every < 2:
            raise InputError(f"look_every must be at least 2 questions, got {look_every}.")
        if z <= 0:
            raise InputError(f"z must be positive, got {z}.")
        self.look_every = look_every
        self.z = z

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """Note the sweep's first judge."""
        self._judge = next(iter(plan.judges), None)

    def give_up(self, seen: Outcomes) -> dict[int, str]:
        """Return the dominated points."""
        accuracy = seen["is_correct"].mean(1)  # (Q, P)
        flops = (seen["generator_flops"] + seen["judge_flops"]).mean((0, 1))
        is_out = np.zeros(len(seen.points), dtype=bool)
        is_out[[*seen.dropped, *seen.failures]] = True
        found = {}
        for number, point in enumerate(seen.points):
            if is_out[number] or isinstance(point.policy, Consensus):
                continue
            is_rival = np.array([p.judge in (None, self._judge, point.judge) for p in seen.points])
            lead = accuracy - accuracy[:, [number]]
            error = np.maximum(lead.std(0, ddof=1), len(accuracy) ** -0.5) / np.sqrt(len(accuracy))
            is_better = (flops <= flops[number]) & (lead.mean(0) > self.z * error)
            is_better &= is_rival & ~is_out
            if is_better.any():
                by = seen.points[int((lead.mean(0) * is_better).argmax())]
                found[number] = (
                    f"dominated after {len(accuracy)} questions by {by.policy.name} {by.axes}"
                )
        return found
