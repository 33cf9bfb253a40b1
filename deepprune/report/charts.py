"""Specifications of the charts (Vega-Lite by Altair), for the page and for the figures on disk.

A chart names its data, which `datasets` makes; the page has each once, `save` puts them in. What
tells series apart is a colour, a shape and a dash at once: they are readable in greyscale. Shapes
are hollow, so that one on the same place as another is seen.

Needs the extra ``report``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from deepprune.core.files import as_json, write_atomic
from deepprune.core.statistics import frontier
from deepprune.report.datasets import CONSENSUS, Records
from deepprune.report.labels import COSTS

Chart = Any
"""An Altair chart; its methods return unions that say less."""

Width = int | str
"""In pixels, or ``container`` on a page."""

PAGE_WIDTH = 640
"""Least width for which the labels of a chart are placed; a narrower one has none."""

GREY = "#808080"
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d",
    "#b2182b", "#66a61e",
)  # fmt: skip
"""Okabe and Ito's, without those that are faint on white or on black; then four more."""

_CROSS = "M-.8,-1L0,-.25L.8,-1L1,-.8L.25,0L1,.8L.8,1L0,.25L-.8,1L-1,.8L-.25,0L-1,-.8Z"
SHAPES = (
    "square", "triangle-up", "diamond", "cross", "triangle-down", _CROSS,
    "triangle-right", "triangle-left",
)  # fmt: skip
DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [10, 4], [4, 1], [1, 3])

CONFIG: dict[str, Any] = {
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "axis": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"},
    "axisX": {"titlePadding": 8},
    "legend": {"labelFontSize": 11, "titleFontSize": 11, "labelLimit": 330, "symbolSize": 90},
    "title": {"fontSize": 12, "fontWeight": "normal", "anchor": "start"},
    "view": {"stroke": None},
}


def save(chart: Chart, data: Mapping[str, Records], path: Path, title: str = "") -> Path:
    """Write a chart with its named data as ``path``, a PNG file, and as SVG beside it."""
    spec = chart.to_dict() | {"background": "white", "config": CONFIG}
    spec["datasets"] = spec.get("datasets", {}) | as_json(data)  # Altair puts inline data there
    if title:
        spec["title"] = title
    svg = vl_convert.vegalite_to_svg(spec)
    write_atomic(path.with_suffix(".svg"), svg)
    write_atomic(path, vl_convert.svg_to_png(svg, scale=1.5))
    return path


def _scales(names: Sequence[str]) -> dict[str, Any]:
    """Return the scales of colour, shape and dash over series, and a legend; cons@k is grey."""
    others = [name for name in names if name != CONSENSUS]
    domain = [*([CONSENSUS] if CONSENSUS in names else []), *others]
    first = len(domain) - len(others)
    each: dict[str, list[Any]] = {
        "color": [GREY] * first + [COLOURS[i % len(COLOURS)] for i in range(len(others))],
        "shape": ["circle"] * first + [SHAPES[i % len(SHAPES)] for i in range(len(others))],
        "strokeDash": [[1, 0]] * first + [DASHES[i % len(DASHES)] for i in range(len(others))],
    }
    scales = {channel: alt.Scale(domain=domain, range=r) for channel, r in each.items()}
    return {**scales, "legend": _legend(names)}


def _dash(field: str, names: Sequence[str]) -> alt.StrokeDash:
    """Return the dashes of lines whose legend shows their shapes.

    Vega-Lite joins legends of equal domains, and would dash the symbols: this one is reversed.
    """
    scale = _scales(names[::-1])["strokeDash"]
    return alt.StrokeDash(f"{field}:N", scale=scale, legend=None)


def _legend(names: Sequence[str]) -> alt.Legend:
    """Return a legend below the chart, with as many columns as fit."""
    return alt.Legend(
        title=None,
        orient="bottom",
        columns=alt.ExprRef(f"max(1, floor(width / {6 * max(map(len, names), default=0) + 34}))"),
        symbolLimit=0,
        symbolFillColor="transparent",
        symbolStrokeWidth=1.8,
    )


def _names(data: Records, field: str) -> list[str]:
    return list(dict.fromkeys(str(record[field]) for record in data))


def _log_domain(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=1), max(values, default=10)
    room = max((high / low) ** 0.06, 1.05)
    return low / room, high * room


def _ticks(low: float, high: float) -> list[float]:
    """List 1, 2 and 5 times the powers of ten between two values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    return [v for p in powers for s in steps if low <= (v := s * 10.0**p) <= high]


def accuracy_chart(
    points: Records, cost: str, width: Width = 640, height: int = 400, data: str = "points"
) -> Chart:
    """Accuracy of every point against a cost of `labels.COSTS`, and the curve of cons@k.

    A click on the legend isolates a series; the selection ``brush`` is what the page's table
    shows. Labels that would overlap another, or a point, are left out.
    """
    shown = [p for p in points if p.get(cost)]
    xs = _log_domain([p[cost] for p in shown])
    intervals = [p for p in shown if p["few"] or p["series"] == CONSENSUS]
    ys = [p["accuracy"] for p in shown]
    ys += [p[f"accuracy_{end}"] for p in intervals for end in ("low", "high")]
    low, high = (min(ys), max(ys)) if ys else (0, 100)
    room = 0.05 * max(high - low, 1)
    domain = (max(low - room, 0), min(high + room, 100))

    scales = _scales(_names(shown, "series"))
    axis = alt.Axis(values=_ticks(*xs), format="~s", labelOverlap="greedy")
    x = alt.X(
        f"{cost}:Q",
        title=f"{COSTS[cost]} (log scale)",
        scale=alt.Scale(type="log", domain=xs, nice=False),
        axis=axis,
    )
    title = "accuracy, %, with 95 % intervals over questions"
    y = alt.Y("accuracy:Q", title=title, scale=alt.Scale(domain=domain, zero=False, nice=False))
    colour = alt.Color("series:N", scale=scales["color"], legend=scales["legend"])
    shape = alt.Shape("series:N", scale=scales["shape"], legend=scales["legend"])
    dash = _dash("series", _names(shown, "series"))
    run = {"detail": "run:N"} if any("run" in p for p in shown) else {}
    ends = {"y": alt.Y("accuracy_low:Q", title=title), "y2": alt.Y2("accuracy_high:Q")}

    legend = alt.selection_point(name="legend", fields=["series"], bind="legend")
    brush = alt.selection_interval(name="brush")

    def seen(opacity: float) -> Any:
        return alt.condition(legend, alt.value(opacity), alt.value(opacity / 12))

    is_best = f"indexof(datum.frontier, '{cost}') >= 0"
    base = alt.Chart(alt.NamedData(data)).transform_filter(f"datum['{cost}'] > 0")
    band = base.transform_filter(alt.datum.series == CONSENSUS).mark_area(opacity=0.14, color=GREY)
    lines = base.transform_filter(is_best).mark_line(strokeWidth=1.4)
    rules = base.transform_filter("datum.few").mark_rule()
    dots = base.mark_point(filled=False, strokeWidth=1.6)
    chosen = {"width": width if isinstance(width, int) else PAGE_WIDTH, "height": height}
    texts = alt.Chart(alt.InlineData(values=_labels(shown, cost, xs, domain, **chosen))).mark_text(
        fontSize=10,
        color=GREY,
        dx=alt.ExprRef("datum.dx"),
        dy=alt.ExprRef("datum.dy"),
        opacity=alt.ExprRef(f"width < {PAGE_WIDTH - 60} ? 0 : 1"),
    )
    return alt.layer(
        band.encode(x=x, **ends, **run),
        lines.encode(x=x, y=y, color=colour, strokeDash=dash, opacity=seen(0.9), **run),
        rules.encode(x=x, color=colour, opacity=seen(0.55), **ends),
        dots.encode(
            x=x,
            y=y,
            color=colour,
            shape=shape,
            opacity=seen(0.95),
            size=alt.condition(is_best, alt.value(60), alt.value(22)),
            tooltip=_tooltips(shown, cost),
        ).add_params(legend, brush),
        texts.encode(x="x:Q", y="y:Q", text="text:N"),
    ).properties(width=width, height=height)


def _tooltips(points: Records, cost: str) -> list[alt.Tooltip]:
    shown = {
        "label": ("point", ""),
        "run": ("run", ""),
        "accuracy": ("accuracy, %", ".1f"),
        "accuracy_low": ("from", ".1f"),
        "accuracy_high": ("to", ".1f"),
        cost: (COSTS[cost], ",.4~r"),
        "accuracy_vs_matched_cons_net": ("against cons@k of equal tokens, points", "+.1f"),
        "token_saving": ("tokens saved, %", ".1f"),
        "net_saving": ("FLOPs saved, net of the judge, %", ".1f"),
    }
    known = points[0] if points else {}
    return [
        alt.Tooltip(f"{field}:Q", title=title, format=form)
        if form
        else alt.Tooltip(f"{field}:N", title=title)
        for field, (title, form) in shown.items()
        if field in known
    ]


def _labels(
    points: Records,
    cost: str,
    xs: tuple[float, float],
    ys: tuple[float, float],
    width: int,
    height: int,
) -> list[dict[str, Any]]:
    """Place the labels of cons@k at powers of two, and of thresholds where there are few points.

    A label stands where it overlaps neither a point nor another label, or nowhere.
    """

    def place(point: Mapping[str, Any]) -> tuple[float, float]:
        across = math.log(point[cost] / xs[0]) / math.log(xs[1] / xs[0])
        return width * across, height * (1 - (point["accuracy"] - ys[0]) / (ys[1] - ys[0]))

    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in map(place, points)]
    found = []
    last = max((p["k"] for p in points if p["k"]), default=0)
    for point in points:
        if (k := point["k"]) is not None:
            text = f"{k}" if k.bit_count() == 1 or k == last else ""
            text = f"cons@{k}" if text and k == last else text
        else:
            text = (
                f"{point['threshold']:g}" if point["few"] and point["threshold"] is not None else ""
            )
        x, y = place(point)
        half = 3.2 * len(text) + 1
        for dx, dy in (
            (0, 12),
            (0, -12),
            (half + 8, 0),
            (-half - 8, 0),
            (half + 6, 11),
            (half + 6, -11),
        ):
            box = x + dx - half, y + dy - 6, x + dx + half, y + dy + 6
            is_inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height
            if text and is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                where = {"x": point[cost], "y": point["accuracy"], "dx": dx, "dy": dy}
                found.append({**where, "text": text})
                break
    return found


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def trade_off_chart(points: Records, loss: float, width: int = 220) -> Chart:
    """Latency against net tokens of the points that lose up to ``loss`` points to cons@N.

    The line joins those that no other beats in both. Data: ``points``, with ``latency``.
    """
    every = [p for p in points if p.get("latency")]
    near = [p for p in every if (d := p["accuracy_vs_cons_n"]) is None or d >= -loss]
    scales = _scales(_names(every, "series"))
    x, y = (
        axis(
            f"{cost}:Q",
            title=title,
            scale=alt.Scale(type="log", domain=domain, nice=False),
            axis=alt.Axis(values=_ticks(*domain), format="~s", labelOverlap="greedy"),
        )
        for axis, cost, title in (
            (alt.X, "net_tokens", "net tokens a question"),
            (alt.Y, "latency", COSTS["latency"]),
        )
        for domain in [_log_domain([p[cost] for p in every])]
    )
    data = alt.Chart(alt.InlineData(values=near))
    spent, latency = (np.array([p[c] for p in near]) for c in ("net_tokens", "latency"))
    best = [near[i] for i in frontier(spent, -latency)]
    line = alt.Chart(alt.InlineData(values=best)).mark_line(strokeWidth=0.9, color=GREY)
    return alt.layer(
        line.encode(x=x, y=y, order="net_tokens:Q"),
        data.mark_point(filled=False, size=40, strokeWidth=1.4).encode(
            x=x,
            y=y,
            color=alt.Color("series:N", scale=scales["color"], legend=scales["legend"]),
            shape=alt.Shape("series:N", scale=scales["shape"], legend=scales["legend"]),
        ),
    ).properties(width=width, height=230, title=f"loss of up to {loss:g} point{'s' * (loss > 1)}")


def interval_chart(
    data: str,
    records: Records,
    value: str,
    title: str,
    *,
    group: str = "label",
    series: str = "",
    full: str = "",
    at: float | None = None,
    width: Width = 330,
) -> Chart:
    """Dots with intervals: a row for each ``group``, in it one for each ``series``.

    Args:
        data: Name of the data.
        records: Its records, for their names and number; at least one has the value.
        value: Field of the value; those of its interval end in ``_low`` and ``_high``.
        title: Name of the axis.
        group: Field of the rows' names.
        series: Field that a colour and a shape tell apart.
        full: Field that fills a dot where it holds, e.g. a difference that is clear of 0.
        at: Where a dotted line stands: chance, or no difference.
        width: Of the panel.
    """
    measured = [r for r in records if r.get(value) is not None]
    groups = _names(measured, group)
    names = _names(measured, series) if series else [""]
    base = alt.Chart(alt.NamedData(data)).transform_filter(f"isValid(datum['{value}'])")
    wide = 260 if isinstance(width, int) else alt.ExprRef("0.45 * containerSize()[0]")
    where: dict[str, Any] = {
        "y": alt.Y(f"{group}:N", sort=groups, title=None, axis=alt.Axis(labelLimit=wide))
    }
    if series:
        scales = _scales(names)
        where["yOffset"] = alt.YOffset(f"{series}:N", sort=names)
        where["color"] = alt.Color(f"{series}:N", scale=scales["color"], legend=scales["legend"])
    x = alt.X(f"{value}:Q", title=title, scale=alt.Scale(zero=False, padding=8))
    rules = base.mark_rule(strokeWidth=1.4, color=COLOURS[0]).encode(
        x=alt.X(f"{value}_low:Q", title=title), x2=f"{value}_high:Q", **where
    )
    shown = [f"{name}:N" for name in (group, series) if name]
    numbers = [value, f"{value}_low", f"{value}_high"]
    dots = base.mark_point(size=55, strokeWidth=1.6, filled=not full, color=COLOURS[0])
    layers = [
        rules,
        dots.encode(
            x=x,
            tooltip=[*shown, *(alt.Tooltip(f"{n}:Q", format=".3f") for n in numbers)],
            **where,
            **(
                {"shape": alt.Shape(f"{series}:N", scale=scales["shape"], legend=scales["legend"])}
                if series
                else {}
            ),
            **(
                {
                    "fillOpacity": alt.condition(f"datum['{full}']", alt.value(1), alt.value(0)),
                    "fill": alt.value(COLOURS[0]),
                }
                if full
                else {}
            ),
        ),
    ]
    if at is not None:
        line = alt.Chart(alt.InlineData(values=[{"at": at}]))
        layers.append(line.mark_rule(strokeDash=[2, 3], color=GREY).encode(x=alt.X("at:Q")))
    step = max(20, 13 * len(names) + 6)
    return alt.layer(*layers).properties(width=width, height=max(60, step * len(groups)))


def heat_chart(
    records: Records, x: str, y: str, value: str, title: str, width: Width = 420
) -> Chart:
    """Heat map of a metric over the fields ``x`` and ``y``, named so. Data: ``heat``."""
    measured = [r for r in records if r.get(value) is not None]
    # from the lowest end of an interval to the highest: what differs by noise looks alike
    ends = [r[n] for r in measured for n in (value, f"{value}_low", f"{value}_high") if r.get(n)]
    domain = [min(ends, default=0), max(ends, default=1)]
    base = alt.Chart(alt.NamedData("heat")).encode(
        x=alt.X("x:N", sort=_names(records, "x"), title=x, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("y:N", sort=_names(records, "y"), title=y, axis=alt.Axis(labelLimit=200)),
    )
    colour = alt.Color(
        f"{value}:Q", title=title, scale=alt.Scale(scheme="cividis", domain=domain), legend=None
    )
    shown = [alt.Tooltip(f"{n}:Q", format=".3f") for n in (value, f"{value}_low", f"{value}_high")]
    dark = alt.condition(
        f"datum['{value}'] > {sum(domain) / 2}", alt.value("#000"), alt.value("#fff")
    )
    return alt.layer(
        base.mark_rect().encode(color=colour, tooltip=["label:N", *shown]),
        base.mark_text(fontSize=12).encode(text=alt.Text(f"{value}:Q", format=".3f"), color=dark),
    ).properties(width=width, height=max(60, 44 * len(_names(records, "y"))))


def parallel_chart(records: Records, width: Width = 640) -> Chart:
    """Parallel coordinates: a line for each run over options and metrics, each from 0 to 1.

    Data: ``parallel``, see `datasets.parallel_records`. A click isolates a run.
    """
    names = _names(records, "label")
    pick = alt.selection_point(name="legend", fields=["label"], bind="legend")
    base = alt.Chart(alt.NamedData("parallel")).encode(
        x=alt.X(
            "axis:N",
            sort=_names(records, "axis"),
            title=None,
            axis=alt.Axis(labelAngle=0, labelExpr="split(datum.label, ' ')"),
        ),
        y=alt.Y("place:Q", title="lowest to highest", axis=alt.Axis(labels=False, ticks=False)),
        opacity=alt.condition(pick, alt.value(0.85), alt.value(0.08)),
    )
    tooltip = ["label:N", "axis:N", "value:N"]
    lines = _lines(base, "label", names, tooltip, pick, is_one=False)
    return lines.properties(width=width, height=280)


def _lines(
    base: Chart, field: str, names: Sequence[str], tooltip: Sequence[Any], pick: Any, is_one: bool
) -> Chart:
    """Draw a line with points for each name, told apart by colour, dash and shape.

    The legend, which is left out if ``is_one``, shows the shapes; ``pick`` selects in it.
    """
    scales = _scales(names)
    legend = None if is_one else scales["legend"]
    base = base.encode(color=alt.Color(f"{field}:N", scale=scales["color"], legend=legend))
    points = base.mark_point(size=34, strokeWidth=1.4, filled=False).encode(
        shape=alt.Shape(f"{field}:N", scale=scales["shape"], legend=legend), tooltip=tooltip
    )
    return alt.layer(
        base.mark_line(strokeWidth=1.4).encode(strokeDash=_dash(field, names)),
        points.add_params(pick),
    )


def training_chart(records: Records, metric: str, width: Width = 420) -> Chart:
    """A metric of the training over its steps, a line for each run. Data: ``training``."""
    names = _names([record for record in records if record["metric"] == metric], "run")
    is_one = len(names) < 2
    pick = alt.selection_point(name="legend", fields=["run"], bind="legend")
    base = alt.Chart(alt.NamedData("training")).transform_filter(alt.datum.metric == metric)
    base = base.encode(
        x=alt.X("step:Q", title="optimiser steps"),
        y=alt.Y("value:Q", title=metric.replace("_", " "), scale=alt.Scale(zero=False)),
        opacity=alt.condition(pick, alt.value(0.85), alt.value(0.08)),
    )
    tooltip = [*([] if is_one else ["run:N"]), "step:Q", alt.Tooltip("value:Q", format=".4f")]
    lines = _lines(base, "run", names, tooltip, pick, is_one)
    return lines.properties(width=width, height=220)


def roc_chart(width: Width = 320) -> Chart:
    """ROC of "same" pairs, pooled and within questions. Data: ``roc``."""
    scales = _scales(["pooled", "within questions"])
    line = alt.Chart(alt.NamedData("roc")).mark_line(strokeWidth=1.8)
    x, y = "different pairs called the same, share", "same pairs called the same, share"
    return alt.layer(
        _diagonal(),
        line.encode(
            x=alt.X("fpr:Q", title=x, scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("tpr:Q", title=y, scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("curve:N", scale=scales["color"], legend=scales["legend"]),
            strokeDash=alt.StrokeDash(
                "curve:N", scale=scales["strokeDash"], legend=scales["legend"]
            ),
            order="fpr:Q",
        ),
    ).properties(width=width, height=280)


def reliability_chart(records: Records, data: str = "reliability", width: Width = 320) -> Chart:
    """Share of "same" against the mean score of each bin; a dot grows with its pairs."""
    scales = _scales(_names(records, "pairs"))
    base = alt.Chart(alt.NamedData(data)).encode(
        x=alt.X("score:Q", title="mean score", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("same:Q", title="share of same answers", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("pairs:N", scale=scales["color"], legend=scales["legend"]),
    )
    dash = _dash("pairs", _names(records, "pairs"))
    return alt.layer(
        _diagonal(),
        base.mark_line(strokeWidth=1.2).encode(strokeDash=dash),
        base.mark_point(strokeWidth=1.6).encode(
            shape=alt.Shape("pairs:N", scale=scales["shape"], legend=scales["legend"]),
            size=alt.Size("n:Q", scale=alt.Scale(range=[20, 260]), legend=None),
            tooltip=[
                "pairs:N",
                alt.Tooltip("score:Q", format=".3f"),
                alt.Tooltip("same:Q", format=".3f"),
                "n:Q",
            ],
        ),
    ).properties(width=width, height=280)


def _diagonal() -> Chart:
    ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    line = alt.Chart(ends).mark_line(strokeDash=[2, 3], color=GREY, strokeWidth=1)
    return line.encode(x="x:Q", y="y:Q")


def histogram_chart(data: str = "histogram", width: Width = 320, height: int = 280) -> Chart:
    """Pairs by score, a stepped line for each class."""
    scales = _scales(["same answer", "different answers"])
    base = alt.Chart(alt.NamedData(data)).encode(
        x=alt.X("from:Q", title="score", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("n:Q", title="pairs", stack=None),
        color=alt.Color("class:N", scale=scales["color"], legend=scales["legend"]),
    )
    dash = alt.StrokeDash("class:N", scale=scales["strokeDash"], legend=scales["legend"])
    return alt.layer(
        base.mark_area(interpolate="step-after", opacity=0.12),
        base.mark_line(interpolate="step-after", strokeWidth=1.5).encode(
            strokeDash=dash, tooltip=["class:N", "from:Q", "to:Q", "n:Q"]
        ),
    ).properties(width=width, height=height)


def question_auroc_chart(records: Records, width: Width = 320) -> Chart:
    """AUROC of each question, the lowest first; dots grow with the pairs. Data: ``aurocs``."""
    dots = alt.Chart(alt.NamedData("aurocs")).mark_point(strokeWidth=1.5, color=COLOURS[0])
    line = alt.Chart(alt.InlineData(values=[{"at": 0.5}]))
    return alt.layer(
        line.mark_rule(strokeDash=[2, 3], color=GREY).encode(y="at:Q"),
        dots.encode(
            x=alt.X(
                "rank:Q",
                title="questions with both classes, by AUROC",
                scale=alt.Scale(domain=[0, len(records) + 1], nice=False),
            ),
            y=alt.Y("auroc:Q", title="AUROC of the question", scale=alt.Scale(domain=[0, 1])),
            size=alt.Size("pairs:Q", scale=alt.Scale(range=[20, 160]), legend=None),
            tooltip=[
                "question:N",
                alt.Tooltip("auroc:Q", format=".3f"),
                "pairs:Q",
                alt.Tooltip("same:Q", format=".0%", title="same answer"),
            ],
        ),
    ).properties(width=width, height=280)


def timeline_chart(width: Width = 640) -> Chart:
    """Traces of one question over tokens: what was generated, and faintly what was not.

    Data: ``timeline``, made by the page for the chosen question and point, as is the height.
    """
    base = alt.Chart(alt.NamedData("timeline")).encode(
        y=alt.Y("trace:N", sort=None, title="trace, in order of start"),
        tooltip=[
            alt.Tooltip("trace:N"), alt.Tooltip("end:N"), alt.Tooltip("tokens:Q"),
            alt.Tooltip("full:Q", title="tokens, whole"), alt.Tooltip("cluster:N"),
            alt.Tooltip("by:N", title="stopped for"), alt.Tooltip("score:Q", format=".3f"),
            alt.Tooltip("answer:N"),
        ],
    )  # fmt: skip
    x = alt.X("tokens:Q", title="tokens")
    ends = alt.Scale(domain=["finished", "stopped"], range=["circle", _CROSS])
    colour = alt.Color(
        "cluster:N",
        sort=["none"],
        scale=alt.Scale(range=[GREY, *COLOURS]),
        legend=alt.Legend(title="cluster", orient="bottom", columns=8),
    )
    end = alt.Legend(title="end", orient="bottom", symbolFillColor=GREY)
    return alt.layer(
        base.mark_rule(color=GREY, opacity=0.35, strokeWidth=2).encode(
            x=alt.X("zero:Q", title="tokens"), x2="full:Q"
        ),
        base.mark_bar(height=5).encode(x=alt.X("zero:Q"), x2="tokens:Q", color=colour),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, color=colour, shape=alt.Shape("end:N", scale=ends, legend=end)
        ),
        base.mark_text(align="left", dx=6, fontSize=10, color=GREY, limit=150).encode(
            x=alt.X("full:Q"), text="label:N"
        ),
    ).properties(width=width, height=300)


def tokens_chart(records: Records) -> Chart:
    """Tokens of each question that was pruned live, by what became of them. Data: ``tokens``."""
    questions, parts = _names(records, "question"), _names(records, "part")
    colours = [*COLOURS[:3], GREY, "#dddddd"]
    return (
        alt.Chart(alt.NamedData("tokens"))
        .mark_bar(stroke="#555", strokeWidth=0.4)
        .encode(
            x=alt.X("tokens:Q", title="tokens"),
            y=alt.Y("question:N", sort=questions, title=None),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=parts, range=colours),
                legend=alt.Legend(title=None, orient="top"),
            ),
            order="order:Q",
        )
        .properties(width=560, height=alt.Step(18))
    )
