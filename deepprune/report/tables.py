"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from deepprune.evaluation.metrics import ABOVE_CONSENSUS
from deepprune.evaluation.results import Row
from deepprune.evaluation.statistics import Estimate

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


def describe(row: Row) -> str:
    """A point in few words: ``cons@8``, ``deepprune 0.5 @ 500 tokens``."""
    if row["policy"] == "consensus":
        return f"cons@{row['k']}"
    words = ["representatives" if row.get("finish") == "representatives" else row["policy"]]
    if "threshold" in row:
        words.append(f"{row['threshold']:g}")
    if "prefix_len" in row:
        unit = {"first_tokens": " tokens", "reasoning_words": " words"}.get(row["prefix_kind"], "")
        words.append(f"@ {row['prefix_len']:g}{unit}")
    return " ".join(words)


def sweep_table(rows: Sequence[Row], title: str = "") -> Table:
    """Accuracy, tokens a question and savings, in percent with 95 % intervals over questions."""
    table = _table(title)
    table.add_column("policy", no_wrap=True)
    for name in ("accuracy", "vs cons@k of\nequal tokens", "tokens", "saved, gross"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("saved, net\nof the judge", "judge\ncalls"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row["status"] != "ok":
            table.add_row(describe(row), f"[red]failed: {row['reason']}[/red]")
            continue
        is_consensus = row["policy"] == "consensus"
        table.add_row(
            describe(row),
            percent(row["accuracy"]),
            "" if is_consensus else percent(row[ABOVE_CONSENSUS], sign=True),
            f"{row['tokens']:,.0f}",
            percent(row["token_saving"]),
            "" if is_consensus else percent(row["net_saving"]),
            "" if is_consensus else f"{row['judge_calls']:,.0f}",
        )
    return table


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
