"""Summary of a set of questions that were pruned live: estimates, a table, a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from deepprune.core.protocols import FloatArray
from deepprune.core.statistics import Bootstrap, Estimate
from deepprune.live.question import LiveResult
from deepprune.live.view import one_line
from deepprune.report.tables import percent

_MOST_BARS = 60
_FLOPS = ("generator_flops", "judge_flops")


def live_estimates(rows: Sequence[LiveResult], seed: int) -> dict[str, Estimate]:
    """Estimate accuracy and savings over the decided questions, with 95 % intervals.

    ``accuracy`` covers those with a gold answer. ``saving_estimated`` and ``net_saving_estimated``
    are ratios of sums. A metric that no question has is missing.
    """
    done = [row for row in rows if row["status"] == "ok"]
    measured = [row for row in done if row["tokens_unpruned_estimated"]]
    priced = [row for row in measured if row["flops_unpruned_estimated"]]
    found: dict[str, Estimate | None] = {}
    if graded := [row for row in done if row["is_correct"] is not None]:
        found["accuracy"] = _draws(graded, seed).mean(_sums(graded, "is_correct"))[0]
    for name, some, unpruned, spent in (
        ("saving_estimated", measured, "tokens_unpruned_estimated", ("tokens",)),
        ("net_saving_estimated", priced, "flops_unpruned_estimated", _FLOPS),
    ):
        if some:
            whole = _sums(some, unpruned)
            found[name] = _draws(some, seed).ratio(whole - _sums(some, *spent), whole)[0]
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _draws(rows: Sequence[LiveResult], seed: int) -> Bootstrap:
    return Bootstrap([f"{row['dataset']}/{row['question_id']}" for row in rows], seed)


def _sums(rows: Sequence[LiveResult], *names: str) -> FloatArray:
    """Sum some columns of each row, shape ``(Q, 1, 1)``."""
    return np.array([float(sum(row[n] for n in names)) for row in rows]).reshape(-1, 1, 1)


def live_table(rows: Sequence[LiveResult], title: str, seed: int) -> Table:
    """Build the table of accuracy, tokens, savings, time and failures over all questions."""
    found = live_estimates(rows, seed)
    done = [row for row in rows if row["status"] == "ok"]
    table = Table(title=Text(one_line(title)), title_justify="left", show_header=False)
    lines = {
        "questions": f"{len(done)} decided, {len(rows) - len(done)} failed",
        "accuracy": percent(found.get("accuracy")) or "not known: no gold answers",
        "tokens per question": f"{np.mean([row['tokens'] for row in done]):,.0f}" if done else "",
        "saving, gross, estimated": percent(found.get("saving_estimated")),
        "saving, net, estimated": percent(found.get("net_saving_estimated")) or "not known",
        "judge": f"{sum(row['judge_calls'] for row in rows):,} calls, "
        f"{sum(row['judge_seconds'] for row in rows):,.1f} s",
        "time to the votes": f"{sum(row['seconds'] for row in rows):,.1f} s",
        "decided unpruned": f"{sum(row['fallback'] is not None for row in done)}",
        "traces failed": f"{sum(row['n_failed'] for row in rows)}",
    }
    for name, value in lines.items():
        table.add_row(name, value)
    table.caption = "in percent; [ ]: 95 % over questions"
    return table


def tokens_figure(rows: Sequence[LiveResult], path: Path) -> Path:
    """Draw the tokens and the estimated saving of the first 60 questions into a PNG file."""
    from deepprune.report import charts

    records = []
    for row in rows[:_MOST_BARS]:
        saved = (row["tokens_unpruned_estimated"] or 0) - row["tokens"]
        parts = {
            "finished": row["tokens_finished"],
            "stopped": row["tokens_pruned"],
            "forced answers": row["tokens_forced"],
            "failed": row["tokens_failed"],
            "saved (estimated)": max(saved, 0),
        }
        records += [
            {"question": one_line(row["question_id"])[:32], "part": part, "tokens": n, "order": i}
            for i, (part, n) in enumerate(parts.items())
        ]
    return charts.save(charts.tokens_chart(records), {"tokens": records}, path)
