"""Grid points in few words, and which of them are worth a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from deepprune.evaluation.outcomes import Row

_FIRST_FACT = "n_questions"
"""In a row, the policy's fields stand before it."""

_SILENT = {"policy", "threshold", "prefix_kind", "prefix_len"}
"""Fields that a label shows in a way of their own."""


def labels(rows: Sequence[Row]) -> list[str]:
    """A label for every row of a sweep: ``cons@8``, ``deepprune 0.5 @ 500 tokens, wave 8``.

    A label has the policy's threshold and prefix, and of its other fields those in which the rows
    of its policy differ: no two points of a sweep have the same.
    """
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[policy_label(row)].append(row)
    varied = {
        name: [
            field
            for field in dict.fromkeys(f for row in group for f in _fields(row))
            if len({repr(row.get(field)) for row in group}) > 1
        ]
        for name, group in groups.items()
    }
    return [_label(row, varied[policy_label(row)]) for row in rows]


def policy_label(row: Row) -> str:
    """The policy; DeepPrune's finishing rules are two."""
    is_second = row["policy"] == "deepprune" and row.get("finish") == "representatives"
    return "representatives" if is_second else str(row["policy"])


def _label(row: Row, varied: Sequence[str]) -> str:
    if row["policy"] == "consensus":
        return f"cons@{row['k']}"
    words = [policy_label(row)]
    if row.get("threshold") is not None:
        words.append(_value(row["threshold"]))
    if row.get("prefix_len") is not None:
        kind = row.get("prefix_kind", "")
        unit = {"first_tokens": "tokens", "reasoning_words": "words"}.get(kind, kind)
        words.append(f"@ {_value(row['prefix_len'])} {unit}".rstrip())
    details = [f"{_word(field)}{_value(row.get(field))}" for field in varied]
    return ", ".join([" ".join(words), *details])


def _fields(row: Row) -> list[str]:
    names = list(row)
    fields = names[: names.index(_FIRST_FACT)] if _FIRST_FACT in names else names
    return [*(f for f in fields if f not in _SILENT), "n_traces"]


def _word(field: str) -> str:
    short = {"n_traces": "N", "max_finishers": "K2", "max_members": "K1", "max_clusters": "K"}
    return "" if field == "clustering" else short.get(field, field.replace("_", " ")) + " "


def _value(value: Any) -> str:
    """As it would be written in YAML; a float with as many digits as tell it from others."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def net_tokens(row: Row) -> float:
    """Generated tokens a question, the judge's FLOPs counted as generator tokens where known."""
    return float(row["tokens"] if row["tokens_net"] is None else row["tokens_net"])


def on_frontier(rows: Sequence[Row]) -> list[bool]:
    """Of each row with a status of ok: whether no other is as accurate for fewer net tokens."""
    best = -1.0
    kept = [False] * len(rows)
    measured = [i for i, row in enumerate(rows) if row["status"] == "ok"]
    for i in sorted(measured, key=lambda i: (net_tokens(rows[i]), -rows[i]["accuracy"].value)):
        if rows[i]["accuracy"].value > best:
            best, kept[i] = rows[i]["accuracy"].value, True
    return kept
