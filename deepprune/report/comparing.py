"""Comparison of runs: files, table, figure and page, for a multirun that ends and `report`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepprune.core.files import write_atomic
from deepprune.judge.measure.comparison import HEADLINE, ComparedRow, RunRecord, compare
from deepprune.report.figures import REPORT, comparison_figure, drawn, report_page
from deepprune.report.tables import comparison_table, show

FIGURE = "comparison.png"


def report_runs(
    runs: Sequence[RunRecord],
    folder: Path,
    baseline: Mapping[str, Any] | None = None,
    by: Sequence[str] | None = None,
    *,
    with_figure: bool = True,
) -> list[ComparedRow]:
    """Compare runs, show the table, and write ``comparison.jsonl``, the figure and the page.

    Args:
        runs: See `comparison.read_runs`.
        folder: Where the files go.
        baseline: See `comparison.compare`.
        by: See there.
        with_figure: Whether to draw ``comparison.png`` too.
    """
    rows = compare(runs, baseline, by=by)
    table = folder / "comparison.jsonl"
    write_atomic(table, "".join(json.dumps(row.record()) + "\n" for row in rows))
    show(comparison_table(rows))
    if baseline and len(rows) > 1 and not any(row.baseline for row in rows):
        wanted = ", ".join(f"{k}={v}" for k, v in baseline.items())
        print(f"no differences: no row has a finished baseline beside it, {wanted}")
    is_measured = with_figure and any(HEADLINE in row.metrics for row in rows)
    if is_measured and (figure := drawn(comparison_figure, rows, folder / FIGURE)):
        print(f"figure: {figure}")
    if page := drawn(report_page, folder / REPORT, runs, rows):
        print(f"report: {page}")
    print(f"results: {table}")
    return rows
