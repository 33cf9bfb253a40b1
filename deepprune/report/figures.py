"""Figures of sweeps, multiruns and judges: a PNG file at ``path``, which is returned, and an SVG.

They are the charts of the page, with their data. Without the extra ``report`` none is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deepprune.evaluation.outcomes import Row
from deepprune.judge.measure.comparison import HEADLINE, ComparedRow, RunRecord
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report import datasets
from deepprune.report.tables import metric_label, varied_options

LOSSES = (1, 2, 3, 5)
"""Points of accuracy below cons@N that the panels of `trade_off_figure` allow."""

REPORT = "report.html"
NEEDS_REPORT = "figures and report.html need the extra report: pip install 'deepprune[report]'"


def drawn(draw: Callable[..., Path | None], *arguments: Any) -> Path | None:
    """Draw a figure or a page; without the extra ``report``, say so once and return ``None``."""
    if not can_draw():
        return None
    return draw(*arguments)


@cache
def can_draw() -> bool:
    """Return whether the extra ``report`` is installed; say so if it is not."""
    is_there = all(map(find_spec, ("altair", "vl_convert", "jinja2")))
    if not is_there:
        print(NEEDS_REPORT)
    return is_there


def report_page(
    path: Path, runs: Sequence[RunRecord], compared: Sequence[ComparedRow] = ()
) -> Path:
    """Write the page of a run, or of several, see `page.write_page`."""
    from deepprune.report.page import write_page

    return write_page(path, runs, compared)


def accuracy_figure(rows: Sequence[Row], path: Path, title: str, cost: str = "net_tokens") -> Path:
    """Draw accuracy against a cost of `labels.COSTS`."""
    from deepprune.report import charts

    points = datasets.point_records(rows)
    return charts.save(charts.accuracy_chart(points, cost), {"points": points}, path, title)


def trade_off_figure(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Draw latency against net tokens of what loses up to 1, 2, 3 and 5 points to cons@N."""
    import altair as alt

    from deepprune.report import charts

    points = datasets.point_records(rows)
    panels = [charts.trade_off_chart(points, loss) for loss in LOSSES]
    return charts.save(alt.hconcat(*panels), {}, path, title)


def comparison_figure(rows: Sequence[ComparedRow], path: Path) -> Path:
    """Draw the within-question AUROC of every row, and its difference to the baseline's.

    On pairs of unfinished traces; a difference whose interval excludes 0 is a filled dot.
    """
    import altair as alt

    from deepprune.report import charts

    runs = datasets.run_records(rows, varied_options(rows))
    left = charts.interval_chart("runs", runs, HEADLINE, metric_label(HEADLINE), at=0.5)
    title = "difference to the baseline (full: clear of 0)"
    right = charts.interval_chart("runs", runs, "difference", title, full="is_clear", at=0)
    return charts.save(alt.hconcat(left, right), {"runs": runs}, path)


def reliability_figure(before: PairScores, after: PairScores, path: Path) -> Path:
    """Draw the share of "same" against the score, before and after calibration, and histograms."""
    import altair as alt

    from deepprune.report import charts

    panels, data = [], {}
    for name, scored in {"before calibration": before, "after": after}.items():
        data[name] = datasets.reliability_records(scored)
        data[f"{name}, scores"] = datasets.histogram_records(scored)
        upper = charts.reliability_chart(data[name], name).properties(title=name)
        panels += [upper, charts.histogram_chart(f"{name}, scores", height=110)]
    chart = alt.concat(*panels[::2], *panels[1::2], columns=2)
    chart = chart.resolve_scale(color="independent", shape="independent", strokeDash="independent")
    return charts.save(chart, data, path)


def matrix_figure(rows: Sequence[dict[str, Any]], path: Path) -> Path | None:
    """Draw the AUROC of every judge and baseline in every cell, with intervals over questions.

    Nothing is drawn, and ``None`` returned, where no cell has pairs of both classes.
    """
    import altair as alt

    from deepprune.report import charts

    cells = datasets.matrix_records(rows)
    panels = [
        charts.interval_chart(
            "matrix", cells, name, metric_label(name), group="cell", series="judge", at=0.5
        )
        for name in datasets.matrix_metrics(cells)
    ]
    if not panels:
        return None
    return charts.save(alt.hconcat(*panels), {"matrix": cells}, path)
