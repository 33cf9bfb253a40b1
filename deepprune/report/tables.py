"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from deepprune.evaluation.metrics import ABOVE_CONSENSUS, ABOVE_CONSENSUS_NET
from deepprune.evaluation.results import Row
from deepprune.evaluation.statistics import Estimate
from deepprune.report.labels import labels, on_frontier, policy_label

SHOWN_JUDGE_METRICS = {
    "auroc_within_unfinished": "AUROC within question, both unfinished",
    "auroc_unfinished": "AUROC pooled, both unfinished",
    "auroc_within": "AUROC within question, all pairs",
    "auroc": "AUROC pooled, all pairs",
    "tnr_at_fnr_0.2_unfinished": "TNR at 20 % FNR, both unfinished",
    "ece": "expected calibration error, all pairs",
}
"""The judge metrics worth a line; the record holds all of them."""


def percent(estimate: Estimate, *, sign: bool = False) -> str:
    """``81.0 [74.2, 87.1]``, in percent."""
    value, low, high = (f"{100 * v:+.1f}" if sign else f"{100 * v:.1f}" for v in estimate)
    return f"{value} [{low}, {high.replace('100.0', '100')}]"


MOST_ROWS = 40
"""A sweep of more points is shown in part."""


def shown_rows(rows: Sequence[Row]) -> list[int]:
    """The rows that the terminal shows: all, or of a large sweep those that matter.

    That is cons@k at powers of two, and of every policy its frontier of accuracy against net tokens
    (six points of it) and its best point against cons@k of equal tokens.
    """
    if len(rows) <= MOST_ROWS:
        return list(range(len(rows)))
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row["status"] == "ok":
            groups.setdefault(policy_label(row), []).append(i)
    chosen: set[int] = set()
    for name, members in groups.items():
        if name == "consensus":
            chosen |= {i for i in members if rows[i]["k"].bit_count() == 1 or i == members[-1]}
            continue
        kept = on_frontier([rows[i] for i in members])
        frontier = [i for i, is_kept in zip(members, kept, strict=True) if is_kept]
        steps = range(min(6, len(frontier)))
        chosen |= {frontier[round(k * (len(frontier) - 1) / max(steps[-1], 1))] for k in steps}
        chosen.add(max(members, key=lambda i: rows[i][ABOVE_CONSENSUS_NET].value))
    return sorted(chosen)


def sweep_table(rows: Sequence[Row], title: str = "") -> Table:
    """Accuracy, tokens a question and savings, in percent with 95 % intervals over questions."""
    shown = shown_rows(rows)
    names = labels(rows)
    has_judge = any(row.get("judge_calls") for row in rows)
    table = _table(title)
    table.add_column("policy", no_wrap=True)
    for name in ("accuracy", "vs cons@k of\nequal tokens", "tokens", "saved, gross"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("saved, net\nof the judge" if has_judge else "saved, FLOPs", justify="right")
    table.add_column("latency,\ntokens", justify="right", no_wrap=True)
    if has_judge:
        table.add_column("judge\ncalls", justify="right", no_wrap=True)
    for i in shown:
        row = rows[i]
        if row["status"] != "ok":
            table.add_row(names[i], f"[red]{row['status']}: {row['reason']}[/red]")
            continue
        is_consensus = row["policy"] == "consensus"
        against = row[ABOVE_CONSENSUS_NET] or row[ABOVE_CONSENSUS]
        cells = [
            names[i] + ("" if is_consensus else marks(row)),
            percent(row["accuracy"]),
            "" if is_consensus else percent(against, sign=True),
            f"{row['tokens']:,.0f}",
            percent(row["token_saving"]),
            "" if is_consensus or row["net_saving"] is None else percent(row["net_saving"]),
            f"{row['tokens_sequential']:,.0f}",
        ]
        calls = "" if row["judge"] is None else f"{row['judge_calls']:,.0f}"
        table.add_row(*cells, *([calls] if has_judge else []))
    ok = [row for row in rows if row["status"] == "ok" and row["policy"] != "consensus"]
    said = [meaning for mark, meaning in MARKS.items() if any(mark in marks(row) for row in ok)]
    if len(shown) < len(rows):
        given_up = {name: sum(r["status"] == name for r in rows) for name in ("dropped", "failed")}
        others = "".join(f", {n} {name}" for name, n in given_up.items() if n)
        said.insert(0, f"{len(shown)} of {len(rows)} points{others}; results.jsonl has all")
    table.caption = "; ".join(said) or None
    table.caption_justify = "left"
    return table


MARKS = {
    "*": "* differs from cons@N (McNemar, Holm over the sweep, p < .05)",
    "=": "= not inferior to cons@N at the margin",
    "+": "+ more accurate than cons@k of equal tokens, the interval clear of 0",
    "-": "- less accurate than it, the interval clear of 0",
}
"""What stands behind a policy's name in a table."""


def marks(row: Row) -> str:
    """The marks of a row, see `MARKS`."""
    against = row[ABOVE_CONSENSUS_NET] or row[ABOVE_CONSENSUS]
    found = [
        ("+", against.low > 0),
        ("-", against.high < 0),
        ("=", row["is_non_inferior"]),
        ("*", row["p_mcnemar_holm"] is not None and row["p_mcnemar_holm"] < 0.05),
    ]
    text = "".join(mark for mark, holds in found if holds)
    return f" {text}" if text else ""


def judge_table(metrics: Mapping[str, Mapping[str, Estimate]], title: str = "") -> Table:
    """Judges side by side: metric, then a column for each judge, with 95 % intervals."""
    table = _table(title)
    table.add_column("on held-out questions")
    for judge in metrics:
        table.add_column(judge, justify="right")
    for name, label in SHOWN_JUDGE_METRICS.items():
        cells = [_plain(m[name]) if name in m else "" for m in metrics.values()]
        table.add_row(label, *cells)
    return table


SHOWN_IN_COMPARISON = {
    "auroc_within_unfinished": "AUROC within\nquestion",
    "auroc_unfinished": "AUROC\npooled",
    "accuracy": "accuracy",
    "accuracy_vs_matched_cons": "vs cons@k of\nequal tokens",
    "token_saving": "saved, gross",
    "net_saving": "saved, net",
}
"""What the comparison of a multirun shows: pairs that are both unfinished, one policy point."""


def comparison_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Runs of a multirun: the overrides that differ, then what came out."""
    names = sorted({name for run in runs for name in run["overrides"]})
    varied = [n for n in names if len({run["overrides"].get(n) for run in runs}) > 1]
    points = ", ".join(sorted({run["point"] for run in runs if run["point"]}))
    table = _table(f"comparison of the runs; policy figures are of {points}")
    for name in ("run", "status", *varied):
        table.add_column(name)
    for label in SHOWN_IN_COMPARISON.values():
        table.add_column(label, justify="right", no_wrap=True)
    for run in runs:
        cells = [run["metrics"].get(name) for name in SHOWN_IN_COMPARISON]
        table.add_row(
            str(run["run"]),
            run["status"],
            *(str(run["overrides"].get(name, "")) for name in varied),
            *("" if c is None else "{:.3f} [{:.2f}, {:.2f}]".format(*c) for c in cells),
        )
    return table


def _table(title: str) -> Table:
    return Table(
        title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def show(*tables: Table) -> None:
    """Print tables, at least 160 columns wide so that nothing is cut in a log file."""
    console = Console()
    if console.width < 160:
        console = Console(width=160)
    for table in tables:
        console.print(table)
