"""The grid of a sweep: which policies at which settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from deepprune.protocols import Policy
from deepprune.pruning.policies.consensus import Consensus
from deepprune.types import PrefixRule


@dataclass(frozen=True, slots=True)
class Point:
    """One grid point: a policy whose fields are the axes' values."""

    policy: Policy

    @property
    def axes(self) -> dict[str, Any]:
        """The policy's fields as plain values; a prefix rule becomes its kind and length."""
        axes: dict[str, Any] = {}
        for field in fields(self.policy):  # type: ignore[arg-type]  # policies are dataclasses
            value = getattr(self.policy, field.name)
            if field.name == "prefix":
                axes |= {"prefix_kind": value.kind, "prefix_len": value.k}
            elif field.name != "name":
                axes[field.name] = value
        return axes

    @property
    def key(self) -> str:
        """Names the point in the record on disk."""
        return json.dumps({"policy": self.policy.name, **self.axes}, sort_keys=True)


def consensus_sizes(n_traces: int) -> list[int]:
    """The k of the cons@k curve: 1, 2, 3, 4, 6, 8, 12, ... and N."""
    steps = {m << i for i in range(n_traces.bit_length()) for m in (1, 3)}
    return sorted({k for k in steps if k < n_traces} | {n_traces})


def grid(
    policies: Sequence[Policy],
    *,
    n_traces: int,
    thresholds: Sequence[float],
    prefixes: Sequence[PrefixRule],
    ks: Sequence[int] = (),
) -> list[Point]:
    """Every policy at every value of the axes that it has.

    An axis applies to the policies with a field of its name: ``k``, ``prefix``, ``threshold``, in
    this order, the last one fastest. The cons@k curve up to cons@N always belongs to a sweep: it
    comes first, asked for or not, since no saving means anything without it. ``ks`` adds to it.
    """
    sizes = sorted({*consensus_sizes(n_traces), *ks})
    values: dict[str, Sequence[Any]] = {"k": sizes, "prefix": prefixes, "threshold": thresholds}
    others = [p for p in policies if not isinstance(p, Consensus)]
    points: dict[str, Point] = {}
    for policy in [Consensus(), *others]:
        axes = [a for a in values if a in {f.name for f in fields(policy)}]  # type: ignore[arg-type]
        for chosen in product(*(values[a] for a in axes)):
            point = Point(replace(policy, **dict(zip(axes, chosen, strict=True))))  # type: ignore[type-var]
            points[point.key] = point
    return list(points.values())
