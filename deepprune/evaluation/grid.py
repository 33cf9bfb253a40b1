"""The grid of a sweep: policies, their settings and judges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.protocols import Need, Policy
from deepprune.core.types import PrefixRule
from deepprune.pruning.policies.consensus import Consensus


@dataclass(frozen=True)
class Point:
    """One grid point: a policy whose fields are the axes' values, and the N that it may sample.

    ``judge`` is the name of the judge that it asks; ``None`` where it asks none.
    """

    policy: Policy
    n_traces: int
    judge: str | None = None

    @cached_property
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

    @cached_property
    def key(self) -> str:
        """Name of the point in the record on disk."""
        facts = {"policy": self.policy.name, "n_traces": self.n_traces, "judge": self.judge}
        facts |= self.axes
        return json.dumps(facts, sort_keys=True)


def consensus_sizes(n_traces: int) -> list[int]:
    """Return the k of the cons@k curve: 1 to 16, then four steps to each doubling, and N.

    No step is longer than 1.25 (16, 20, 24, 28, 32, 40, ...): the curve is concave but for the ties
    of even k, so that lines between distant k lie below it.
    """
    doublings = {m << i for i in range(n_traces.bit_length()) for m in (16, 20, 24, 28)}
    return sorted({k for k in (*range(1, 16), *doublings) if k < n_traces} | {n_traces})


def grid(
    policies: Mapping[str, Policy],
    *,
    n_traces: int,
    judges: Sequence[str] = (),
    thresholds: Sequence[float] = (),
    prefixes: Sequence[PrefixRule] = (),
    ns: Sequence[int] = (),
    axes: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> list[Point]:
    """Return every policy at every value of its axes, with every judge if it asks one.

    The last axis varies fastest. The cons@k curve up to cons@N is always part of a sweep and comes
    first: savings are relative to it. It has cons@N of every N of ``ns`` too.

    Args:
        policies: The policies by name.
        n_traces: The largest N.
        judges: Names of the judges, the slowest axis of a policy that asks one.
        thresholds: Values of ``threshold``, for every policy that has one.
        prefixes: Values of ``prefix``, for every policy that has one.
        ns: Values of N, at most ``n_traces``; empty for ``n_traces`` alone.
        axes: Values of any other field of a policy: name -> field -> values.

    Raises:
        InputError: If an axis is not a field of its policy, or a value is out of range.
    """
    ns = sorted(ns) or [n_traces]
    if ns[0] < 2 or ns[-1] > n_traces:
        raise InputError(
            f"sweep.ns must lie between 2 and the {n_traces} traces a question, got {ns}."
        )
    sizes = sorted({*consensus_sizes(n_traces), *ns})
    points = [Point(Consensus(k), n_traces) for k in sizes]
    axes = axes or {}
    if unknown := sorted(axes.keys() - policies.keys()):
        raise InputError(
            f"sweep.axes.{unknown[0]} is no policy of this sweep, which has "
            f"{', '.join(sorted(policies))}: add it with pruning=[...]."
        )
    for name, policy in policies.items():
        known = {field.name for field in fields(policy)}  # type: ignore[arg-type]  # a dataclass
        mine = dict(axes.get(name, {}))
        for field, chosen in mine.items():
            _check_axis(f"sweep.axes.{name}.{field}", field, chosen, policy, known)
        if isinstance(policy, Consensus):
            continue
        shared = {"prefix": prefixes, "threshold": thresholds}
        values = {f: list(v) for f, v in {**shared, **mine}.items() if f in known and len(v)}
        asked = judges if Need.JUDGE in policy.needs else [None]
        for judge, *chosen in product(asked, *values.values()):
            try:
                point = replace(policy, **dict(zip(values, chosen, strict=True)))  # type: ignore[type-var]
            except ValueError as error:
                raise InputError(f"sweep, {name}: {error}") from error
            points += [Point(point, n, judge) for n in ns]
    return list({point.key: point for point in points}.values())


def _check_axis(
    axis: str, field: str, chosen: Sequence[Any], policy: Policy, known: set[str]
) -> None:
    """Check that an axis is a field of its policy, has values, and these are of its type."""
    elsewhere = {
        "k": "the curve of every sweep",
        "prefix": "sweep.prefix_lens",
        "name": "a policy of its own",
    }
    if field in elsewhere and field in known and (field != "k" or isinstance(policy, Consensus)):
        raise InputError(f"{axis} cannot be an axis: use {elsewhere[field]}.")
    if field not in known:
        names = ", ".join(sorted(known - elsewhere.keys()))
        raise InputError(f"{axis} is no field of {policy.name}, which has {names}.")
    if not len(chosen):
        raise InputError(f"{axis} is empty: give at least one value.")
    default = getattr(policy, field)
    for value in chosen:
        kinds = (int, float) if isinstance(default, float) else type(default)
        is_flag = isinstance(value, bool) == isinstance(default, bool)
        if None not in (default, value) and not (is_flag and isinstance(value, kinds)):
            raise InputError(f"{axis} takes values like {default!r}, got {value!r}.")
        if field == "threshold" and not 0 <= value <= 1:
            raise InputError(f"{axis} must lie in [0, 1], got {value:g}: a score is a probability.")
