"""Criteria by which the votes so far decide a question.

The four rules are those of adaptive consistency, Aggarwal et al. 2023
(https://arxiv.org/abs/2305.11860; code Pranjal2041/AdaptiveConsistency). Each maps the votes of the
answer classes, most votes first, to a confidence in [0, 1]. Departures from the code:

- ``dirichlet`` integrates by quadrature (error below 1e-5) where the code draws at random, and
  takes all classes where the code takes the five largest. Like the code it knows the observed
  classes only, and one unseen class where a single one is observed.
- ``entropy`` is inverted, 1 - normalised entropy, so that high means sure for every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import log

import numpy as np
from scipy.special import betainc, gammainc, gammaincinv

from deepprune.core.types import NO_ANSWER

Counts = tuple[float, ...]

_nodes, _weights = np.polynomial.legendre.leggauss(128)
QUANTILES, QUANTILE_WEIGHTS = (_nodes + 1) / 2, _weights / 2  # Gauss-Legendre on [0, 1]


@lru_cache(maxsize=65_536)
def _beta(first: float, second: float) -> float:
    return float(betainc(second + 1, first + 1, 0.5))


def beta(counts: Counts) -> float:
    """P(the leader's share beats the runner-up's), as if they were the only two classes.

    ``1 - I_{1/2}(v1 + 1, v2 + 1)`` with a uniform prior: (4, 0) gives 1 - 0.5**5 = 0.96875.
    """
    return _beta(counts[0], counts[1] if len(counts) > 1 else 0)


@lru_cache(maxsize=65_536)
def dirichlet(counts: Counts) -> float:
    """P(the leader's share is the largest of all), with a uniform prior over the shares.

    Shares are Gamma(v + 1) variables over their sum, so it is the mean over the leader's quantiles
    of P(every other variable is smaller). With one or two classes it is `beta`.
    """
    if len(counts) < 3:
        return beta(counts)
    others = np.array(counts[1:])[:, None]
    leader = gammaincinv(counts[0] + 1, QUANTILES)
    return float(QUANTILE_WEIGHTS @ np.prod(gammainc(others + 1, leader), axis=0))


def majority(counts: Counts) -> float:
    """Return the leader's share of the votes; 0 for a single vote, as in the code."""
    total = sum(counts)
    return counts[0] / total if total > 1 else 0.0


def entropy(counts: Counts) -> float:
    """1 - normalised entropy of the votes; 0 for a single vote, as in the code.

    A single class is compared with one imaginary vote, as in the code: (3,) counts as (3, 1).
    """
    if sum(counts) < 2:
        return 0.0
    counts = counts if len(counts) > 1 else (*counts, 1)
    total = sum(counts)
    return 1 + sum(v / total * log(v / total) for v in counts) / log(len(counts))


RULES: dict[str, Callable[[Counts], float]] = {
    "beta": beta,
    "dirichlet": dirichlet,
    "majority": majority,
    "entropy": entropy,
}


def is_decided(counts: Iterable[float], rule: str, stop_confidence: float) -> bool:
    """Return whether the criterion reaches ``stop_confidence``; false without votes.

    Args:
        counts: Votes of each answer class that has any, in any order.
        rule: One of `RULES`.
        stop_confidence: In [0, 1]. The paper uses .95 for ``beta`` and ``dirichlet``; its code .8
            for ``majority`` and, inverted, .25 for ``entropy``.
    """
    ordered = tuple(sorted(counts, reverse=True))
    return bool(ordered) and RULES[rule](ordered) >= stop_confidence


def is_safe(
    leader: int, votes: Mapping[int, float], at_risk: Mapping[int, float], gamma: float
) -> bool:
    """Return whether the leader's margin exceeds the cost of expected switches to every challenger.

    The rule of MARS, Chen et al. 2026 (https://arxiv.org/abs/2606.12935), summed over traces: with
    Q_a the expected switches away from answer a and Q their total, the cost against k is
    ``gamma (Q + Q_leader - Q_k) - Q_k``, and ``gamma (Q + Q_leader)`` against an answer that nobody
    gave.

    Args:
        leader: The answer class with the most votes.
        votes: Votes of each class.
        at_risk: Q_a of each class; for ``NO_ANSWER`` the traces without an answer.
        gamma: In [0, 1].
    """
    if leader == NO_ANSWER:
        return False
    worst = gamma * (sum(at_risk.values()) + at_risk.get(leader, 0.0))
    if votes[leader] <= worst:
        return False
    return all(
        votes[leader] - count > worst - (1 + gamma) * at_risk.get(answer, 0.0)
        for answer, count in votes.items()
        if answer != leader
    )
