"""Figures of sweeps, multiruns and judges; each is a PNG file at ``path``, which is returned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.statistics import frontier
from deepprune.evaluation.outcomes import Row
from deepprune.judge.measure.comparison import HEADLINE, ComparedRow, is_clear_of_0
from deepprune.judge.measure.matrix import CellFacts
from deepprune.judge.measure.metrics import ECE_BINS, ece_bin
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report.labels import COSTS, frontier_rows, labels, net_tokens, policy_label
from deepprune.report.tables import metric_label, varied_options

COLOURS = (
    "#d1495b", "#00798c", "#edae49", "#66a182", "#8d5a97", "#2e4057",
    "#e07a9b", "#4fb3bf", "#b07d2b", "#3b6b4c", "#c3a5cc", "#7a8ea3",
)  # fmt: skip
LOSSES = (0.01, 0.02, 0.03, 0.05)
"""Accuracy below cons@N that the panels of `trade_off_figure` allow."""
FEW_POINTS = 12
"""Up to so many points beside cons@k are drawn one by one."""

SMALL_LABEL = {"textcoords": "offset points", "fontsize": 7}

NEEDS_MATPLOTLIB = "figures need matplotlib: pip install 'deepprune[report]'"


def has_matplotlib() -> bool:
    """Return whether matplotlib is installed; without it figures are skipped."""
    return find_spec("matplotlib") is not None


def drawn(draw: Callable[..., Path], *arguments: Any) -> Path | None:
    """Draw a figure; without matplotlib, print that it is skipped and return ``None``."""
    if not has_matplotlib():
        print(NEEDS_MATPLOTLIB)
        return None
    return draw(*arguments)


def accuracy_figure(rows: Sequence[Row], path: Path, title: str, cost: str = "net_tokens") -> Path:
    """Draw accuracy, with intervals over questions, against a cost of `labels.COSTS`.

    Consensus sampling is the grey curve with its band. Of few points each has its interval, joined
    in the order of their thresholds; of many, each policy's are a cloud with its frontier.
    """
    figure = _figure(8, 4.8)
    axes = figure.subplots()
    ok = [r for r in rows if r.status == "ok"]
    curve = sorted((r for r in ok if r.policy == "consensus"), key=lambda r: r.axes["k"])
    tokens, accuracy = _places(curve, cost)
    axes.plot(tokens, accuracy, "o-", color="0.45", ms=3, label="cons@k")
    axes.fill_between(
        tokens,
        [100 * r.accuracy.low for r in curve],
        [100 * r.accuracy.high for r in curve],
        color="0.45",
        alpha=0.13,
        lw=0,
    )
    for row, *place in zip(curve, tokens, accuracy, strict=True):
        if row.axes["k"].bit_count() == 1 or row is curve[-1]:
            axes.annotate(str(row.axes["k"]), place, (0, -11), color="0.4", **SMALL_LABEL)
    others = [r for r in ok if r.policy != "consensus"]
    if len(others) <= FEW_POINTS:
        _every_point(axes, others, cost)
    else:
        _frontiers(axes, others, cost)
    if ok:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    axes.set_xlabel(f"{COSTS[cost][1]} (log scale)")
    axes.set_ylabel("accuracy, % (95 % interval over questions)")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8 if len(others) <= FEW_POINTS else 7, loc="best")
    return _saved(figure, path)


def trade_off_figure(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Draw latency against net tokens of what loses at most 1, 2, 3 and 5 points to cons@N.

    A panel for each loss, which is a mean over questions, without its interval; the line joins the
    points that no other beats in both.
    """
    figure = _figure(11, 3.6)
    ok = [r for r in rows if r.counts.get("latency") is not None]
    names = list(dict.fromkeys(map(policy_label, ok)))
    colours = dict(zip(names, COLOURS * len(names), strict=False)) | {"consensus": "0.45"}
    panels = figure.subplots(1, len(LOSSES), sharex=True, sharey=True)
    for axes, loss in zip(panels, LOSSES, strict=True):
        near = [r for r in ok if (d := r.metrics["accuracy_vs_cons_n"]) is None or d.value >= -loss]
        for mark, name in zip("osDv^P*X" * len(names), names, strict=False):
            mine = [r for r in near if policy_label(r) == name]
            places = [net_tokens(r) for r in mine], [r.count("latency") for r in mine]
            axes.plot(*places, mark, ms=5, mew=0, alpha=0.7, color=colours[name], label=name)
        if near:
            both = np.array([(net_tokens(r), r.count("latency")) for r in near]).T
            axes.loglog(*both[:, frontier(both[0], -both[1])], "-", lw=0.9, color="0.2", zorder=0)
            for axis in (axes.xaxis, axes.yaxis):
                _plain_ticks(axis)
        points = f"{100 * loss:g} point{'s' * (loss > 0.01)}"
        axes.set_title(f"loss of at most {points}", fontsize=9, loc="left")
        axes.set_xlabel("net tokens a question")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel(COSTS["latency"][1])
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.legend(*panels[-1].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    return _saved(figure, path)


def comparison_figure(rows: Sequence[ComparedRow], path: Path) -> Path:
    """Draw the within-question AUROC of every row, and its difference to the baseline's.

    Both with 95 % intervals, on pairs of unfinished traces; a difference whose interval excludes 0
    is a filled dot.
    """
    measured = [row for row in rows if HEADLINE in row.metrics][::-1]  # the first one on top
    names = varied_options(rows)
    places = range(len(measured))
    figure = _figure(9, 1.3 + 0.3 * len(measured))
    left, right = figure.subplots(1, 2, sharey=True)
    for place, row in zip(places, measured, strict=True):
        for axes, found in ((left, row.metrics), (right, row.differences)):
            if (estimate := found.get(HEADLINE)) is not None:
                is_full = axes is left or is_clear_of_0(estimate)
                colour = COLOURS[axes is left]
                axes.plot(estimate[1:], [place, place], lw=1.4, color=colour)
                axes.plot(
                    estimate.value, place, "o", ms=5, color=colour, mfc=colour if is_full else "w"
                )
    left.set_yticks(places, [", ".join(r.overrides.get(n, "") for n in names) for r in measured])
    left.set_xlabel(metric_label(HEADLINE))
    right.set_xlabel("difference to the baseline (full: clear of 0)")
    left.axvline(0.5, color="0.6", lw=0.8, ls=":")
    right.axvline(0, color="0.6", lw=0.8, ls=":")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.25)
    return _saved(figure, path)


def _every_point(axes: Any, rows: Sequence[Row], cost: str) -> None:
    """Draw points with their intervals, in lines over the thresholds."""
    names = labels(
        [replace(row, axes={k: v for k, v in row.axes.items() if k != "threshold"}) for row in rows]
    )
    lines: dict[str, list[Row]] = {}
    for name, row in zip(names, rows, strict=True):
        lines.setdefault(name, []).append(row)
    for colour, (name, line) in zip(COLOURS * len(lines), lines.items(), strict=False):
        tokens, values = _places(line, cost)
        arms = [
            [100 * (r.accuracy.value - r.accuracy.low) for r in line],
            [100 * (r.accuracy.high - r.accuracy.value) for r in line],
        ]
        style = {"fmt": "s-", "ms": 5, "lw": 1, "elinewidth": 0.7, "capsize": 2}
        axes.errorbar(tokens, values, yerr=arms, color=colour, label=name, **style)
        for row, *place in zip(line, tokens, values, strict=True):
            if "threshold" in row.axes:
                text = f"{row.axes['threshold']:g}"
                axes.annotate(text, place, (5, 4), color=colour, **SMALL_LABEL)


def _frontiers(axes: Any, rows: Sequence[Row], cost: str) -> None:
    """Draw a faint point for every row, and a line along each policy's frontier."""
    groups: dict[str, list[Row]] = {}
    has_judges = len({row.judge for row in rows} - {None}) > 1
    for row in rows:
        judge = f", judge {row.judge}" if has_judges and row.judge else ""
        groups.setdefault(policy_label(row) + judge, []).append(row)
    for colour, (name, group) in zip(COLOURS * len(groups), groups.items(), strict=False):
        axes.plot(*_places(group, cost), ".", ms=4, mew=0, alpha=0.35, color=colour)
        best = [group[i] for i in frontier_rows(group, cost)]
        label = f"{name} ({len(group)})"
        axes.plot(*_places(best, cost), "o-", ms=4, lw=1.2, color=colour, label=label)


def _plain_ticks(axis: Any) -> None:
    """Write 500 and 20k on a logarithmic axis, at 1, 2, 5 of each power of ten."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def _places(rows: Sequence[Row], cost: str) -> tuple[list[float], list[float]]:
    """List the cost and the accuracy in percent of each row."""
    return [COSTS[cost][0](row) for row in rows], [100 * row.accuracy.value for row in rows]


def reliability_figure(before: PairScores, after: PairScores, path: Path) -> Path:
    """Draw the share of "same" against the score, before and after calibration, with histograms.

    Bins are those of the expected calibration error; a bin's dot grows with its pairs.
    """
    figure = _figure(8, 5.2)
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    edges = np.linspace(0, 1, ECE_BINS + 1)
    for column, scored in zip(axes.T, (before, after), strict=True):
        column[0].plot([0, 1], [0, 1], ":", color="0.6", lw=0.8)
        kinds = {"all pairs": scored, "both unfinished": scored.unfinished()}
        for colour, (kind, part) in zip(COLOURS, kinds.items(), strict=False):
            s, y = part.scores, part.labels
            sizes = np.bincount(ece_bin(s), minlength=ECE_BINS)
            full = sizes > 0
            mean_score, share = (
                np.bincount(ece_bin(s), v, ECE_BINS)[full] / sizes[full] for v in (s, y)
            )
            label = f"{kind}: ECE {part.metric('ece'):.3f}"
            column[0].plot(mean_score, share, lw=1, color=colour)
            area = 8 + 120 * sizes[full] / max(1, s.size)
            column[0].scatter(mean_score, share, area, color=colour, label=label)
            column[1].hist(s, edges, color=colour, histtype="step", lw=1.2)
        column[0].legend(fontsize=8, loc="upper left")
        column[0].grid(alpha=0.25)
        column[1].set_xlabel("score")
    axes[0, 0].set_title("before calibration", fontsize=10, loc="left")
    axes[0, 1].set_title("after", fontsize=10, loc="left")
    axes[0, 0].set_ylabel("share of same answers")
    axes[1, 0].set_ylabel("pairs")
    return _saved(figure, path)


def matrix_figure(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw the AUROC of every judge and baseline in every cell, with intervals over questions."""
    cells = list(dict.fromkeys(CellFacts.of(row) for row in rows))
    marks = {row["judge"]: "s" if row["is_baseline"] else "o" for row in rows}
    judges = list(marks)
    step = 0.64 / max(1, len(judges) - 1)
    colours = dict(zip(judges, COLOURS * len(judges), strict=False)) | {"question_only": "0.6"}
    figure = _figure(10, 1.6 + len(cells) * (0.25 + 0.14 * len(judges)))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, (HEADLINE, "auroc_unfinished"), strict=True):
        for row in rows:
            found = row["metrics"][metric]
            place = cells.index(CellFacts.of(row)) - 0.32 + judges.index(row["judge"]) * step
            mark, colour = marks[row["judge"]], colours[row["judge"]]
            axes.plot(found[1:], [place, place], lw=1.3, color=colour)
            axes.plot(found.value, place, mark, ms=5, color=colour)
        for edge in range(1, len(cells)):
            axes.axhline(edge - 0.5, color="0.85", lw=0.8)
        axes.axvline(0.5, color="0.6", lw=0.8, ls=":")
        axes.set_xlabel(metric_label(metric))
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(cells)), [cell.name.replace(" ", "\n") for cell in cells])
    panels[0].invert_yaxis()
    for judge, mark in marks.items():
        panels[1].plot([], [], f"{mark}-", color=colours[judge], label=judge)
    handles = panels[1].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, ncols=6, loc="outside upper left")
    return _saved(figure, path)


def _figure(width: float, height: float) -> Any:
    """Create a figure, sizes in inches, without pyplot: it imports slowly and needs a display."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # logs its cache
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
