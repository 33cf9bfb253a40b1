"""The accuracy-against-tokens figure, with the cons@k curve that every policy must beat."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepprune.evaluation.results import Row
from deepprune.report.labels import labels, net_tokens, on_frontier, policy_label

COLOURS = (
    "#d1495b", "#00798c", "#edae49", "#66a182", "#8d5a97", "#2e4057",
    "#e07a9b", "#4fb3bf", "#b07d2b", "#3b6b4c", "#c3a5cc", "#7a8ea3",
)  # fmt: skip
FEW_POINTS = 12
"""Up to so many points beside cons@k are drawn one by one."""


def accuracy_figure(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Draw accuracy against tokens a question, both with their intervals over questions.

    Consensus sampling is the grey curve with its band. Of few points each has its interval, joined
    in the order of their thresholds; of many, each policy's are a cloud with its frontier.

    Args:
        rows: Rows of one sweep, with their estimates.
        path: The PNG file.
        title: Title of the figure.

    Returns:
        ``path``.
    """
    import matplotlib

    matplotlib.use("Agg")
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # it tells of its cache
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    ok = [r for r in rows if r["status"] == "ok"]
    curve = sorted((r for r in ok if r["policy"] == "consensus"), key=lambda r: r["k"])
    tokens = [net_tokens(r) for r in curve]
    axes.plot(tokens, [_points(r) for r in curve], "o-", color="0.45", ms=3, label="cons@k")
    axes.fill_between(
        tokens,
        [100 * r["accuracy"].low for r in curve],
        [100 * r["accuracy"].high for r in curve],
        color="0.45",
        alpha=0.13,
        lw=0,
    )
    for row in curve:
        if row["k"].bit_count() == 1 or row is curve[-1]:
            place = (net_tokens(row), _points(row))
            axes.annotate(
                str(row["k"]), place, (0, -11), textcoords="offset points", fontsize=7, color="0.4"
            )
    others = [r for r in ok if r["policy"] != "consensus"]
    if len(others) <= FEW_POINTS:
        _every_point(axes, others)
    else:
        _frontiers(axes, others)
    if ok:
        axes.set_xscale("log")
    for side in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        side(FuncFormatter(_thousands))
    judged = any(r["judge_flops"] and r["generator_flops"] for r in others)
    axes.set_xlabel(
        "tokens a question"
        + (", the judge's FLOPs counted as generator tokens" if judged else "")
        + " (log scale)"
    )
    axes.set_ylabel("accuracy, % (95 % interval over questions)")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8 if len(others) <= FEW_POINTS else 7, loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _every_point(axes: Any, rows: Sequence[Row]) -> None:
    """Points with their intervals, in lines over the thresholds."""
    names = labels([{k: v for k, v in row.items() if k != "threshold"} for row in rows])
    lines: dict[str, list[Row]] = {}
    for name, row in zip(names, rows, strict=True):
        lines.setdefault(name, []).append(row)
    for colour, (name, line) in zip(COLOURS * len(lines), lines.items(), strict=False):
        values = [_points(r) for r in line]
        axes.errorbar(
            [net_tokens(r) for r in line],
            values,
            yerr=[
                [100 * (r["accuracy"].value - r["accuracy"].low) for r in line],
                [100 * (r["accuracy"].high - r["accuracy"].value) for r in line],
            ],
            fmt="s-",
            ms=5,
            lw=1,
            elinewidth=0.7,
            capsize=2,
            color=colour,
            label=name,
        )
        for row, value in zip(line, values, strict=True):
            if row.get("threshold") is not None:
                axes.annotate(
                    f"{row['threshold']:g}",
                    (net_tokens(row), value),
                    (5, 4),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                )


def _frontiers(axes: Any, rows: Sequence[Row]) -> None:
    """A faint point for every row, a line along each policy's frontier."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(policy_label(row), []).append(row)
    for colour, (name, group) in zip(COLOURS * len(groups), groups.items(), strict=False):
        axes.plot(
            [net_tokens(r) for r in group],
            [_points(r) for r in group],
            ".",
            ms=4,
            mew=0,
            alpha=0.35,
            color=colour,
        )
        best = [r for r, is_on in zip(group, on_frontier(group), strict=True) if is_on]
        best.sort(key=net_tokens)
        axes.plot(
            [net_tokens(r) for r in best],
            [_points(r) for r in best],
            "o-",
            ms=4,
            lw=1.2,
            color=colour,
            label=f"{name} ({len(group)})",
        )


def _points(row: Row) -> float:
    return float(100 * row["accuracy"].value)


def _thousands(tokens: float, _: int) -> str:
    """1, 2 and 5 of every decade, as 500 or 20k."""
    leading = f"{tokens:e}"[0]
    if leading not in "125" or not f"{tokens:e}".startswith(f"{leading}.000"):
        return ""
    return f"{tokens / 1000:g}k" if tokens >= 1000 else f"{tokens:g}"
