"""Ranges that stand in annotations hold at every call."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pytest

from deepprune.core.options import Count, Ge, Gt, Le, Lt, Share, checked, range_of


@checked
@dataclass(frozen=True, slots=True)
class Sampler:
    gamma: Annotated[float, Ge(0)] = 2.0
    k: Count | None = None
    kind: Literal["a", "b"] = "a"
    shares: Sequence[Share] = ()


@checked
def loss(logits: float, *, keep: Annotated[float, Gt(0), Lt(1)] = 0.5) -> float:
    return logits * keep


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sampler(-1), r"^gamma must be >= 0, got -1$"),
        (lambda: Sampler(float("nan")), r"^gamma must be >= 0, got nan$"),
        (lambda: replace(Sampler(), k=0), r"^k must be >= 1 or null, got 0$"),
        (lambda: Sampler(kind="c"), r"^kind must be one of a, b, got 'c'$"),
        (lambda: Sampler(shares=[0.5, 1.5]), r"^shares must lie in \[0, 1\], got 1.5$"),
        (lambda: loss(1, keep=1), r"^keep must lie in \(0, 1\), got 1$"),
    ],
)
def test_a_value_out_of_range_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_legal_values_pass_and_the_signature_stays():
    made = Sampler(0, 1, "b", (0, 1))
    assert (made.gamma, made.k, made.kind, made.shares) == (0, 1, "b", (0, 1))
    assert loss(4, keep=0.25) == 1
    assert list(inspect.signature(Sampler).parameters) == ["gamma", "k", "kind", "shares"]


def test_ranges_are_told_in_words():
    assert range_of(Annotated[float, Gt(0), Le(1)]) == "in (0, 1]"
    assert range_of(Count | None) == ">= 1"
    assert range_of(Literal["a", "b"]) == "a, b"
    assert range_of(str) == ""
