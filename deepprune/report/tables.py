"""Tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepprune.core.statistics import Estimate
from deepprune.evaluation.metrics import ABOVE_CONSENSUS, ABOVE_CONSENSUS_NET
from deepprune.evaluation.outcomes import Row
from deepprune.judge.measure.comparison import (
    HEADLINE,
    MIN_SEEDS,
    ComparedRow,
    is_clear_of_0,
)
from deepprune.judge.measure.matrix import CellFacts
from deepprune.report.labels import labels, on_frontier, policy_label

SHOWN_JUDGE_METRICS = {
    "auroc_within_unfinished": "AUROC within question, both unfinished",
    "auroc_unfinished": "AUROC pooled, both unfinished",
    "auroc_within": "AUROC within question, all pairs",
    "auroc": "AUROC pooled, all pairs",
    "tnr_at_fnr_20_unfinished": "TNR at 20 % FNR, both unfinished",
    "ece": "expected calibration error, all pairs",
}
"""The judge metrics worth a line; the record holds all of them."""


def percent(estimate: Estimate | None, *, sign: bool = False) -> str:
    """``81.0 [74.2, 87.1]``, in percent; nothing where it is not known."""
    if estimate is None:
        return ""
    value, low, high = (f"{100 * v:+.1f}" if sign else f"{100 * v:.1f}" for v in estimate)
    return f"{value} [{low}, {high.replace('100.0', '100')}]"


MOST_ROWS = 40
"""A sweep of more points is shown in part."""

FEW_REASONS = 5
"""So many failed points, and as many dropped ones, are named below the table."""


def shown_rows(rows: Sequence[Row]) -> list[int]:
    """The measured rows that the terminal shows: all, or of a large sweep those that matter.

    Those are cons@k at powers of two, and for every policy and judge its frontier of accuracy
    against net tokens (six points of it) and its best point against cons@k of equal tokens.
    """
    measured = [i for i, row in enumerate(rows) if row.status == "ok"]
    if len(measured) <= MOST_ROWS:
        return measured
    groups: dict[tuple[str, str | None], list[int]] = {}
    for i in measured:
        groups.setdefault((policy_label(rows[i]), rows[i].judge), []).append(i)
    chosen: set[int] = set()
    for (name, _), members in groups.items():
        if name == "consensus":
            last = members[-1]
            chosen |= {i for i in members if rows[i].axes["k"].bit_count() == 1 or i == last}
            continue
        kept = on_frontier([rows[i] for i in members])
        frontier = [i for i, is_kept in zip(members, kept, strict=True) if is_kept]
        steps = range(min(6, len(frontier)))
        chosen |= {frontier[round(k * (len(frontier) - 1) / max(steps[-1], 1))] for k in steps}
        chosen.add(max(members, key=lambda i: above(rows[i]).value))
    return sorted(chosen)


def above(row: Row) -> Estimate:
    """The difference to cons@k of equal tokens: net of the judge where its bill is known."""
    difference = row.metrics[ABOVE_CONSENSUS_NET] or row.metrics[ABOVE_CONSENSUS]
    assert difference is not None
    return difference


def sweep_table(rows: Sequence[Row], title: str = "") -> Table:
    """Accuracy, tokens per question and savings, in percent with 95 % intervals over questions."""
    shown = shown_rows(rows)
    names = labels(rows)
    has_judge = any(row.counts.get("judge_calls") for row in rows)
    is_net = any(row.counts.get("judge_flops") and row.metrics[ABOVE_CONSENSUS_NET] for row in rows)
    table = _table(title)
    table.add_column("policy", no_wrap=True)
    equal = "net tokens" if is_net else "tokens"
    for name in ("accuracy", f"vs cons@k of\nequal {equal}", "tokens", "saved, gross"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("saved, net\nof the judge" if has_judge else "saved, FLOPs", justify="right")
    table.add_column("latency,\ntokens", justify="right", no_wrap=True)
    if has_judge:
        table.add_column("judge\ncalls", justify="right", no_wrap=True)
    for i in shown:
        cells = _cells(rows[i], names[i])
        table.add_row(*cells if has_judge else cells[:-1])
    table.caption = "\n".join(_remarks_below(rows, shown, names)) or None
    table.caption_justify = "left"
    return table


def _cells(row: Row, name: str) -> list[str]:
    """The cells of a measured row; the last one is the judge's calls."""
    is_consensus = row.policy == "consensus"
    return [
        escape(name) + marks(row),
        percent(row.accuracy),
        "" if is_consensus else percent(above(row), sign=True),
        f"{row.count('tokens'):,.0f}",
        percent(row.metrics["token_saving"]),
        "" if is_consensus else percent(row.metrics["net_saving"]),
        f"{row.count('tokens_sequential'):,.0f}",
        "" if row.judge is None else f"{row.count('judge_calls'):,.0f}",
    ]


def _remarks_below(rows: Sequence[Row], shown: Sequence[int], names: Sequence[str]) -> list[str]:
    """What the marks mean, how many points are not shown, and why points have no figures."""
    said = [text for mark, text in MARKS.items() if any(mark in marks(rows[i]) for i in shown)]
    lines = ["; ".join(said)] if said else []
    lost = {s: [i for i, r in enumerate(rows) if r.status == s] for s in ("failed", "dropped")}
    if len(shown) < len(rows):
        others = "".join(f", {len(found)} {name}" for name, found in lost.items() if found)
        lines.insert(0, f"{len(shown)} of {len(rows)} points{others}; results.jsonl has all")
    if len(shown) + sum(map(len, lost.values())) < len(rows):
        lines[0] += "; chosen on the questions they are measured on, which favours them"
    for status, found in lost.items():
        for i in found[:FEW_REASONS]:
            reason = shorten(f"{status}: {names[i]}: {rows[i].reason}", 150, placeholder=" ...")
            lines.append(f"[red]{escape(reason)}[/red]")
    return lines


MARKS = {
    "*": "* differs from cons@N (McNemar, Holm over the sweep, p < .05)",
    "=": "= not inferior to cons@N at the margin",
    "+": "+ more accurate than cons@k of equal tokens (interval excludes 0, unadjusted)",
    "-": "- less accurate than cons@k of equal tokens (interval excludes 0, unadjusted)",
}
"""The marks that follow a policy's name in a table."""


def marks(row: Row) -> str:
    """The marks of a row, see `MARKS`."""
    difference, p = above(row), row.counts["p_mcnemar_holm"]
    found = [
        ("+", difference.low > 0),
        ("-", difference.high < 0),
        ("=", row.counts["is_non_inferior"]),
        ("*", p is not None and p < 0.05),
    ]
    text = "".join(mark for mark, holds in found if holds)
    return f" {text}" if text else ""


SHOWN_CALIBRATION = {
    "ece": "expected calibration error, all pairs",
    "ece_unfinished": "expected calibration error, both unfinished",
    "brier": "Brier score, all pairs",
    "brier_unfinished": "Brier score, both unfinished",
}


def judge_table(
    metrics: Mapping[str, Mapping[str, Estimate]],
    title: str = "",
    shown: Mapping[str, str] = SHOWN_JUDGE_METRICS,
) -> Table:
    """Judge metrics, one column a judge, with 95 % intervals over questions."""
    table = _table(title)
    table.add_column("on held-out questions")
    for judge in metrics:
        table.add_column(judge, justify="right")
    for name, label in shown.items():
        table.add_row(label, *(_short(found.get(name)) for found in metrics.values()))
    return table


SHOWN_IN_MATRIX = {
    "auroc_within_unfinished": "AUROC within,\nboth unfinished",
    "auroc_unfinished": "AUROC pooled,\nboth unfinished",
    "tnr_at_fnr_20_unfinished": "TNR at 20 % FNR,\nboth unfinished",
    "auroc_within": "AUROC within,\nall pairs",
    "auroc": "AUROC pooled,\nall pairs",
    "ece": "ECE,\nall pairs",
}
"""Metrics of a judge report that the terminal shows; the record has all."""


def matrix_tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """One table a cell: judges, then baselines, with 95 % intervals over questions."""
    cells: dict[CellFacts, list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(CellFacts.of(row), []).append(row)
    tables = []
    for cell, members in cells.items():
        facts = members[0]
        table = _table(
            f"{cell.name}, {cell.prefix_kind} {cell.prefix_len:g}: {facts['n_questions']} "
            f"questions, {facts['n_pairs']:,} pairs ({100 * facts['same_share']:.0f} % same), "
            f"{facts['n_pairs_unfinished']:,} of them both unfinished"
        )
        table.add_column("judge", min_width=18)
        for label in SHOWN_IN_MATRIX.values():
            table.add_column(label, justify="right", no_wrap=True)
        for row in members:
            shown = (_short(row["metrics"][name]) for name in SHOWN_IN_MATRIX)
            table.add_row(escape(row["judge"]), *shown)
        tables.append(table)
    return tables


SHOWN_DIFFERENCES = {"auroc_within_unfinished": "within", "auroc_unfinished": "pooled"}


def difference_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Judge minus baseline on pairs that are both unfinished: paired, with 95 % intervals."""
    judged = [row for row in rows if "minus" in row]
    baselines = dict.fromkeys(name for row in judged for name in row["minus"])
    table = _table("judge minus baseline, AUROC of both unfinished")
    for name in ("traces", "judge", "AUROC"):
        table.add_column(name)
    for name in baselines:
        table.add_column(f"- {name}", justify="right", no_wrap=True)
    for row in judged:
        for metric, label in SHOWN_DIFFERENCES.items():
            cells = (_short(row["minus"][b][metric], sign=True) for b in baselines)
            table.add_row(escape(CellFacts.of(row).name), escape(row["judge"]), label, *cells)
    table.caption = "* the difference is clear of 0 (unadjusted)"
    table.caption_justify = "left"
    return table


SHOWN_IN_COMPARISON = {
    HEADLINE: "AUROC within\nquestion",
    "auroc_unfinished": "AUROC\npooled",
    "tnr_at_fnr_20_unfinished": "TNR at\n20 % FNR",
    "accuracy": "accuracy",
    ABOVE_CONSENSUS: "vs cons@k of\nequal tokens",
    "net_saving": "saved, net",
}
"""Metrics that the comparison of a multirun shows; judge metrics are of unfinished pairs."""


def comparison_table(rows: Sequence[ComparedRow]) -> Table:
    """Rows of a multirun: options that differ, metrics, differences to the baseline."""
    points = ", ".join(sorted({run.point for row in rows for run in row.runs if run.point}))
    table = _table(
        "comparison of the runs" + (f"; policy figures are of {points}" if points else "")
    )
    names = varied_options(rows)
    for name in (*names, "runs"):
        table.add_column(name)
    shown = [name for name in SHOWN_IN_COMPARISON if any(name in row.metrics for row in rows)]
    has_differences = any(HEADLINE in row.differences for row in rows)
    for name in shown:
        table.add_column(SHOWN_IN_COMPARISON[name], justify="right", no_wrap=True)
        if name == HEADLINE and has_differences:
            table.add_column("vs the\nbaseline", justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for name in shown:
            cells.append(_short(row.metrics.get(name)))
            if name == HEADLINE and has_differences:
                cells.append(_short(row.differences.get(name), sign=True))
        n = len(row.runs)
        runs = f"{n} of {n + len(row.missing)}" if row.missing else str(n)
        table.add_row(*(escape(row.overrides.get(name, "")) for name in names), runs, *cells)
    table.caption = "\n".join(_remarks(rows, has_differences)) or None
    table.caption_justify = "left"
    return table


def varied_options(rows: Sequence[ComparedRow]) -> list[str]:
    """List the options in which rows differ."""
    names = dict.fromkeys(name for row in rows for name in row.overrides)
    return [n for n in names if len({row.overrides.get(n) for row in rows}) > 1]


def _remarks(rows: Sequence[ComparedRow], has_differences: bool) -> list[str]:
    """Explain the intervals and name the missing runs."""
    lines = []
    if any(row.metrics for row in rows):
        lines.append(f"[ ]: 95 % over questions and, with {MIN_SEEDS} seeds or more, over seeds")
        n_seeds = {len(row.runs) for row in rows if HEADLINE in row.metrics}
        if few := sorted(n for n in n_seeds if 1 < n < MIN_SEEDS):
            lines[0] += f" ({few[0]} are too few for an interval over seeds)"
    if has_differences:
        lines[0] += "; * the difference is clear of 0 (unadjusted)"
    reasons: dict[str, list[str]] = {}
    for run in (run for row in rows for run in row.missing):
        reasons.setdefault(f"{run.status}: {run.reason}".rstrip(": "), []).append(run.name)
    said = [f"run {', '.join(names)} {reason}" for reason, names in reasons.items()]
    short = [shorten(line, 150, placeholder=" ...") for line in said[:FEW_REASONS]]
    return [*map(escape, lines), *(f"[red]{escape(line)}[/red]" for line in short)]


def _short(estimate: Estimate | None, *, sign: bool = False) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{v:+.3f}" if sign else f"{v:.3f}" for v in estimate)
    if math.isnan(estimate.low):
        return value
    mark = " *" if sign and is_clear_of_0(estimate) else ""
    return escape(f"{value} [{low}, {high}]") + mark


def _table(title: str) -> Table:
    return Table(
        title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )


def show(*tables: Table) -> None:
    """Print tables, at least 160 columns wide so that nothing is cut in a log file."""
    console = Console()
    if console.width < 160:
        console = Console(width=160)
    for table in tables:
        console.print(table)
