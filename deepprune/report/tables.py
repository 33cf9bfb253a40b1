"""Tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepprune.core.statistics import Estimate
from deepprune.evaluation.metrics import ABOVE_CONSENSUS, ABOVE_CONSENSUS_NET, ABOVE_HULL
from deepprune.evaluation.outcomes import Row
from deepprune.judge.measure.comparison import HEADLINE, MIN_SEEDS, ComparedRow, is_clear_of_0
from deepprune.judge.measure.matrix import CellFacts
from deepprune.judge.measure.scored_pairs import UNFINISHED
from deepprune.report.labels import frontier_rows, labels, main_row, middle_rows, policy_label

SHOWN_JUDGE_METRICS = (
    "auroc_within_unfinished",
    "auroc_unfinished",
    "auroc_within",
    "auroc",
    "tnr_at_fnr_20_unfinished",
    "ece",
)
"""The judge metrics worth a line; the record holds all of them."""

SHOWN_IN_COMPARISON = {
    HEADLINE: "AUROC within\nquestion",
    "auroc_unfinished": "AUROC\npooled",
    "tnr_at_fnr_20_unfinished": "TNR at\n20 % FNR",
    "accuracy": "accuracy",
    ABOVE_CONSENSUS: "vs cons@k of\nequal tokens",
    "net_saving": "saved, net",
}
"""Metrics that the comparison of a multirun shows; judge metrics are of unfinished pairs."""

MARKS = {
    "*": "* differs from cons@N (McNemar, Holm over the sweep, p < .05)",
    "=": "= not inferior to cons@N at the margin",
    "+": "+ more accurate than cons@k of equal tokens (interval excludes 0, unadjusted)",
    "-": "- less accurate than cons@k of equal tokens (interval excludes 0, unadjusted)",
}
"""The marks that follow a policy's name in a table."""

MOST_ROWS = 40
"""A sweep of more points is shown in part."""

FEW_REASONS = 5
"""So many failed points, and as many dropped ones, are named below the table."""

_CLEAR = "* the difference is clear of 0 (unadjusted)"


def shown_rows(rows: Sequence[Row]) -> list[int]:
    """Choose the measured rows that the terminal shows.

    Those are cons@k at powers of two and all others, or of a large sweep for every policy and judge
    its frontier of accuracy against net tokens (six points of it) and its best point against cons@k
    of equal tokens.
    """
    groups: dict[tuple[str, str | None], list[int]] = {}
    for i in (i for i, row in enumerate(rows) if row.status == "ok"):
        groups.setdefault((policy_label(rows[i]), rows[i].judge), []).append(i)
    curve = groups.pop(("consensus", None), [])
    chosen = {i for i in curve if rows[i].axes["k"].bit_count() == 1 or i == curve[-1]}
    if len(chosen) + sum(map(len, groups.values())) <= MOST_ROWS:
        return sorted(chosen.union(*groups.values()))
    for members in groups.values():
        frontier = sorted(members[i] for i in frontier_rows([rows[i] for i in members]))
        steps = range(min(6, len(frontier)))
        chosen |= {frontier[round(k * (len(frontier) - 1) / max(steps[-1], 1))] for k in steps}
        chosen.add(max(members, key=lambda i: _above(rows[i]).value))
    return sorted(chosen)


def sweep_table(rows: Sequence[Row], title: str = "") -> Table:
    """Tabulate accuracy, tokens per question and savings, in percent with 95 % intervals."""
    shown = shown_rows(rows)
    names = labels(rows)
    has_judge = any(row.counts.get("judge_calls") for row in rows)
    is_net = any(row.counts.get("judge_flops") and row.metrics[ABOVE_CONSENSUS_NET] for row in rows)
    columns = [
        "accuracy",
        "±,\norders",
        f"vs cons@k of\nequal {'net tokens' if is_net else 'tokens'}",
        "vs hull of\nequal tokens",
        "tokens",
        "saved, gross",
        "saved, net\nof the judge" if has_judge else "saved, FLOPs",
        "latency,\nL",
        *(["judge\ncalls"] if has_judge else []),
    ]
    table = _table(title, ["policy"], columns, _remarks_below(rows, shown, names))
    for i in shown:
        row, is_consensus = rows[i], rows[i].policy == "consensus"
        cells = [
            escape(names[i]) + marks(row),
            percent(row.accuracy),
            "" if (error := row.counts["accuracy_se_orders"]) is None else f"{100 * error:.1f}",
            "" if is_consensus else percent(_above(row), sign=True),
            percent(row.metrics[ABOVE_HULL], sign=True),
            f"{row.count('tokens'):,.0f}",
            percent(row.metrics["token_saving"]),
            "" if is_consensus else percent(row.metrics["net_saving"]),
            _latency(row),
            "" if row.judge is None else f"{row.count('judge_calls'):,.0f}",
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


def policy_table(sweeps: Sequence[Sequence[Row]]) -> Table:
    """Tabulate one point of each policy and judge, that at the middle of its grid, and cons@N.

    Args:
        sweeps: The rows of one or more sweeps; they may have different questions.
    """
    columns = ["accuracy", "vs cons@k", "gross", "net", "latency, L", "questions"]
    remark = (
        "the middle of each grid; vs cons@k: of equal net tokens; saved tokens (gross), saved "
        "FLOPs (net); L: mean trace lengths"
    )
    table = _table("", ["policy"], columns, [remark])
    for rows in sweeps:
        full = max((i for i, row in enumerate(rows) if _is_cons_n(row)), default=None)
        names = labels(rows)
        for i in [*([] if full is None or rows is not sweeps[0] else [full]), *middle_rows(rows)]:
            row, is_full = rows[i], i == full
            savings = (row.metrics["token_saving"], row.metrics["net_saving"])
            table.add_row(
                escape(names[i] if row.judge is None else f"{names[i]}, {row.judge}"),
                percent(row.accuracy),
                "" if is_full else percent(_above(row), sign=True),
                *("" if is_full or s is None else f"{100 * s.value:.1f} %" for s in savings),
                _latency(row),
                f"{row.facts['n_questions']}",
            )
    return table


def _latency(row: Row) -> str:
    return "" if (latency := row.counts["latency"]) is None else f"{latency:.1f}"


def _is_cons_n(row: Row) -> bool:
    return (
        row.policy == "consensus" and row.status == "ok" and row.axes["k"] == row.axes["n_traces"]
    )


def finding(sweeps: Sequence[Sequence[Row]]) -> str:
    """Say in one sentence what the first policy with a judge saves, and how sure that is.

    Of sweeps without a judge it is the first policy beside cons@k; "" if there is none.
    """
    measured = [(rows[i], labels(rows)[i]) for rows in sweeps if (i := main_row(rows)) is not None]
    if not measured:
        return ""
    row, name = next((found for found in measured if found[0].judge), measured[0])
    above, saved, needed = _above(row), row.metrics["net_saving"], row.counts["n_questions_needed"]
    n_questions = row.facts["n_questions"]
    verdict = "no difference to cons@k of equal tokens is shown"
    if is_clear_of_0(above):
        verdict = f"{'more' if above.value > 0 else 'less'} accurate than cons@k of equal tokens"
    said = name + (f" with {row.judge}: " if row.judge else ": ")
    if saved is not None:
        said += f"{100 * saved.value:.0f} % fewer FLOPs than cons@N, net; "
    said += f"{verdict} ({percent(above, sign=True)} points, {n_questions} questions)"
    if needed is not None and needed > n_questions:
        said += (
            f"; to show that it loses less than {100 * row.facts['margin']:g} point to cons@N "
            f"takes about {needed:,.0f} questions"
        )
    return f"{said}."


def percent(estimate: Estimate | None, *, sign: bool = False) -> str:
    """Format as ``81.0 [74.2, 87.1]``, in percent; nothing where it is not known."""
    if estimate is None:
        return ""
    value, low, high = (f"{100 * v:+.1f}" if sign else f"{100 * v:.1f}" for v in estimate)
    return f"{value} [{low}, {high.replace('100.0', '100')}]"


def marks(row: Row) -> str:
    """Return the marks of a row, see `MARKS`."""
    difference, p = _above(row), row.counts["p_mcnemar_holm"]
    found = [
        ("+", difference.low > 0),
        ("-", difference.high < 0),
        ("=", row.counts["is_non_inferior"]),
        ("*", p is not None and p < 0.05),
    ]
    text = "".join(mark for mark, holds in found if holds)
    return f" {text}" if text else ""


def _above(row: Row) -> Estimate:
    """Return the difference to cons@k of equal tokens: net tokens where the bill is known."""
    difference = row.metrics[ABOVE_CONSENSUS_NET] or row.metrics[ABOVE_CONSENSUS]
    assert difference is not None
    return difference


def _remarks_below(rows: Sequence[Row], shown: Sequence[int], names: Sequence[str]) -> list[str]:
    """Explain the marks, how many points are not shown, and why points have no figures."""
    said = [text for mark, text in MARKS.items() if any(mark in marks(rows[i]) for i in shown)]
    units = ["±: standard error over orders of the traces", "L: mean trace lengths"]
    lines = ["; ".join([*units, *said])] if shown else []
    lost = {s: [i for i, r in enumerate(rows) if r.status == s] for s in ("failed", "dropped")}
    if len(shown) < len(rows):
        others = "".join(f", {len(found)} {name}" for name, found in lost.items() if found)
        lines.insert(0, f"{len(shown)} of {len(rows)} points{others}; results.jsonl has all")
    hidden = set(range(len(rows))) - {*shown, *lost["failed"], *lost["dropped"]}
    if any(rows[i].policy != "consensus" for i in hidden):
        lines[0] += "; chosen on the questions they are measured on, which favours them"
    for status, found in lost.items():
        lines += _in_red(f"{status}: {names[i]}: {rows[i].reason}" for i in found[:FEW_REASONS])
    return lines


def judges_table(reports: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> Table:
    """Tabulate judges on held-out questions, one row a judge, with 95 % intervals over questions.

    Args:
        reports: Estimates by judge, part of the pairs and metric, as in ``judge_report.json``.
    """
    shown = [name for name in SHOWN_JUDGE_METRICS if name not in ("auroc_within", "auroc")]
    facts = {name: e.value for name, e in next(iter(reports.values()))["all"].items()}
    remark = (
        f"on {facts['n_questions']:.0f} held-out questions, {facts['n_pairs']:,.0f} pairs, "
        f"{100 * facts['same_share']:.0f} % same; all but the ECE are of the "
        f"{facts[f'n_pairs{UNFINISHED}']:,.0f} both unfinished"
    )
    names = [metric_label(name).partition(",")[0] for name in shown]
    table = _table("", ["judge"], names, [remark])
    for name, found in reports.items():
        table.add_row(escape(name), *(_short(found["all"].get(metric)) for metric in shown))
    return table


def _sample(facts: Mapping[str, Any]) -> str:
    """Describe what judge metrics are measured on; rows of 0.1 have no ``n_questions_both``."""
    every, unfinished = (
        "" if (n := facts.get(name)) is None else f" ({n:.0f} questions have both classes)"
        for name in ("n_questions_both", f"n_questions_both{UNFINISHED}")
    )
    n_questions, n_pairs = facts["n_questions"], facts["n_pairs"]
    return (
        f"{n_questions:.0f} questions{every}; {n_pairs:,.0f} pairs, "
        f"{n_pairs / max(1, n_questions):.0f} a question, {100 * facts['same_share']:.0f} % same, "
        f"{facts[f'n_pairs{UNFINISHED}']:,.0f} both unfinished{unfinished}"
    )


def metric_label(name: str) -> str:
    """Describe a judge metric and the pairs that it is measured on."""
    metric = name.removesuffix(UNFINISHED)
    words = {
        "auroc_within": "AUROC within question",
        "auroc": "AUROC pooled",
        "tnr_at_fnr_20": "TNR at 20 % FNR",
        "ece": "calibration error (ECE)",
        "brier": "Brier score",
    }
    return f"{words[metric]}, {'all pairs' if metric == name else 'both unfinished'}"


def matrix_tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Tabulate each cell: judges, then baselines, with 95 % intervals over questions."""
    cells: dict[CellFacts, list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(CellFacts.of(row), []).append(row)
    tables = []
    for cell, members in cells.items():
        facts = members[0]
        title = f"{cell.name}, {cell.prefix_kind} {cell.prefix_len:g}: {_sample(facts)}"
        names = [metric_label(name).replace(", ", ",\n") for name in SHOWN_JUDGE_METRICS]
        table = _table(title, ["judge"], names)
        for row in members:
            shown = (_short(row["metrics"][name]) for name in SHOWN_JUDGE_METRICS)
            table.add_row(escape(row["judge"]), *shown)
        tables.append(table)
    return tables


def difference_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Tabulate judge minus baseline on pairs that are both unfinished, paired."""
    judged = [row for row in rows if "minus" in row]
    baselines = dict.fromkeys(name for row in judged for name in row["minus"])
    title = "judge minus baseline, AUROC of both unfinished"
    columns = [f"- {name}" for name in baselines]
    table = _table(title, ["traces", "judge", "AUROC"], columns, [_CLEAR])
    for row in judged:
        for metric, label in ((HEADLINE, "within"), ("auroc_unfinished", "pooled")):
            cells = (_short(row["minus"][b][metric], sign=True) for b in baselines)
            table.add_row(escape(CellFacts.of(row).name), escape(row["judge"]), label, *cells)
    return table


def comparison_table(rows: Sequence[ComparedRow]) -> Table:
    """Tabulate a multirun: options that differ, metrics, differences to the baseline."""
    points = ", ".join(sorted({run.point for row in rows for run in row.runs if run.point}))
    options = varied_options(rows)
    has_differences = any(HEADLINE in row.differences for row in rows)
    shown = {
        name: label
        for name, label in SHOWN_IN_COMPARISON.items()
        if any(name in row.metrics for row in rows)
    }
    columns = list(shown.values())
    if has_differences:
        columns.insert(1, "vs the\nbaseline")  # the headline comes first
    title = "comparison of the runs" + (f"; policy figures are of {points}" if points else "")
    table = _table(title, [*options, "runs"], columns, _remarks(rows, has_differences))
    for row in rows:
        cells = [_short(row.metrics.get(name)) for name in shown]
        if has_differences:
            cells.insert(1, _short(row.differences.get(HEADLINE), sign=True))
        n = len(row.runs)
        runs = f"{n} of {n + len(row.missing)}" if row.missing else str(n)
        table.add_row(*(escape(row.overrides.get(name, "")) for name in options), runs, *cells)
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
        lines[0] += f"; {_CLEAR}"
    reasons: dict[str, list[str]] = {}
    for run in (run for row in rows for run in row.missing):
        reasons.setdefault(f"{run.status}: {run.reason}".rstrip(": "), []).append(run.name)
    said = [f"run {', '.join(names)} {reason}" for reason, names in reasons.items()]
    return [*map(escape, lines), *_in_red(said[:FEW_REASONS])]


def _in_red(lines: Iterable[str]) -> list[str]:
    short = (shorten(line, 150, placeholder=" ...") for line in lines)
    return [f"[red]{escape(line)}[/red]" for line in short]


def _short(estimate: Estimate | None, *, sign: bool = False) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{v:+.3f}" if sign else f"{v:.3f}" for v in estimate)
    if math.isnan(estimate.low):
        return value
    mark = " *" if sign and is_clear_of_0(estimate) else ""
    return escape(f"{value} [{low}, {high}]") + mark


def _table(
    title: str, left: Iterable[str], right: Iterable[str], caption: Sequence[str] = ()
) -> Table:
    """Start a table of columns that are justified left, then right, with lines below it."""
    table = Table(
        title=title or None,
        title_justify="left",
        caption="\n".join(caption) or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def show(*tables: Table) -> None:
    """Print tables and a line between, at least 160 columns wide: a log file has them whole."""
    console = Console()
    if console.width < 160:
        console = Console(width=160)
    for table in tables:
        console.print(table, "")
