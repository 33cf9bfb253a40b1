"""Short labels of grid points, and the frontier among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepprune.core.statistics import frontier
from deepprune.evaluation.outcomes import Row

_SILENT = {"threshold", "prefix_kind", "prefix_len"}
"""Axes that a label shows in a way of their own."""


def labels(rows: Sequence[Row]) -> list[str]:
    """Label every row of a sweep: ``cons@8``, ``deepprune 0.5 @ 500 tokens, wave 8``.

    A label has the policy's threshold and prefix, and those of its other axes in which the rows of
    its policy differ: no two points of a sweep have the same.
    """
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[policy_label(row)].append(row)
    varied = {
        name: [
            axis
            for axis in dict.fromkeys(axis for row in group for axis in row.axes)
            if axis not in _SILENT and len({repr(row.axes.get(axis)) for row in group}) > 1
        ]
        for name, group in groups.items()
    }
    return [_label(row, varied[policy_label(row)]) for row in rows]


def policy_label(row: Row) -> str:
    """Return the policy's name; ``representatives`` for DeepPrune with that finishing rule."""
    is_second = row.policy == "deepprune" and row.axes.get("finish") == "representatives"
    return "representatives" if is_second else row.policy


def middle_rows(rows: Sequence[Row]) -> list[int]:
    """List the measured row at the middle of the grid of each policy and judge, cons@k excluded.

    It has the middle value of every axis, the upper one of an even number: it is chosen without a
    look at the results.
    """
    groups: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.status == "ok" and row.policy != "consensus":
            groups[policy_label(row), row.judge].append(i)
    chosen = []
    for members in groups.values():
        for axis in rows[members[0]].axes:
            values = list(dict.fromkeys(repr(rows[i].axes[axis]) for i in members))
            middle = values[len(values) // 2]
            members = [i for i in members if repr(rows[i].axes[axis]) == middle]
        chosen.append(members[0])
    return chosen


def main_row(rows: Sequence[Row]) -> int | None:
    """Return the row that a sweep is summarised by: the first of `middle_rows` with a judge.

    Without a judge it is the first of all; ``None`` if there is none.
    """
    middle = middle_rows(rows)
    return next((i for i in middle if rows[i].judge), next(iter(middle), None))


def _label(row: Row, varied: Sequence[str]) -> str:
    if row.policy == "consensus":
        return f"cons@{row.axes['k']}"
    words = [policy_label(row)]
    if "threshold" in row.axes:
        words.append(_value(row.axes["threshold"]))
    if "prefix_len" in row.axes:
        kind = row.axes["prefix_kind"]
        unit = {"first_tokens": "tokens", "reasoning_words": "words"}.get(kind, kind)
        words.append(f"@ {_value(row.axes['prefix_len'])} {unit}")
    details = [f"{_word(axis)}{_value(row.axes.get(axis))}" for axis in varied]
    return ", ".join([" ".join(words), *details])


def _word(field: str) -> str:
    short = {"n_traces": "N", "max_finishers": "K2", "max_members": "K1", "max_clusters": "K"}
    return "" if field == "clustering" else short.get(field, field.replace("_", " ")) + " "


def _value(value: Any) -> str:
    """Format a value as in YAML; a float with as many digits as it needs."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def net_tokens(row: Row) -> float:
    """Return generated tokens per question, plus the judge's FLOPs as tokens where known."""
    net = row.counts["tokens_net"]
    return row.count("tokens") if net is None else net


COSTS = {
    "net_tokens": "tokens a question, the judge's FLOPs counted as tokens",
    "tokens": "generated tokens a question",
    "latency": "latency, mean trace lengths",
    "engine_seconds": "engine seconds a question",
}
"""Costs of a row by name, and what an axis says."""


def cost_of(row: Row, cost: str) -> float:
    """Return a cost of `COSTS` of a point with status ``ok``."""
    return net_tokens(row) if cost == "net_tokens" else row.count(cost)


def known_costs(rows: Sequence[Row]) -> list[str]:
    """List the costs that all measured rows have, and above 0, as a logarithmic axis needs."""
    ok = [row.counts for row in rows if row.status == "ok"]
    recorded = {cost: "tokens" if cost == "net_tokens" else cost for cost in COSTS}
    return [cost for cost, name in recorded.items() if all(counts.get(name) for counts in ok)]


def frontier_rows(rows: Sequence[Row], cost: str = "net_tokens") -> list[int]:
    """List the measured rows that no other beats in accuracy and cost, by rising cost."""
    measured = [i for i, row in enumerate(rows) if row.status == "ok"]
    spent = np.array([cost_of(rows[i], cost) for i in measured])
    accuracy = np.array([rows[i].accuracy.value for i in measured])
    return [measured[i] for i in frontier(spent, accuracy)]
