"""The accuracy-against-tokens figure, with the cons@k curve that every policy must beat."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from deepprune.evaluation.results import Row
from deepprune.report.tables import describe

COLOURS = ("#d1495b", "#00798c", "#edae49", "#66a182", "#8d5a97", "#2e4057")


def accuracy_figure(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Draw accuracy against tokens a question, both with their intervals over questions.

    Consensus sampling is the grey curve with its band. A policy's points are joined in the order
    of their thresholds, a line for every prefix length.

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
    tokens = [r["tokens"] for r in curve]
    axes.plot(
        tokens, [100 * r["accuracy"].value for r in curve], "o-", color="0.45", ms=3, label="cons@k"
    )
    axes.fill_between(
        tokens,
        [100 * r["accuracy"].low for r in curve],
        [100 * r["accuracy"].high for r in curve],
        color="0.45",
        alpha=0.13,
        lw=0,
    )
    for row in curve:
        if row["k"] & (row["k"] - 1) == 0 or row is curve[-1]:
            place = (row["tokens"], 100 * row["accuracy"].value)
            axes.annotate(
                str(row["k"]), place, (0, -11), textcoords="offset points", fontsize=7, color="0.4"
            )
    lines: dict[str, list[Row]] = {}
    for row in ok:
        if row["policy"] != "consensus":
            name = describe({k: v for k, v in row.items() if k != "threshold"})
            lines.setdefault(name, []).append(row)
    for colour, (name, line) in zip(COLOURS * len(lines), lines.items(), strict=False):
        values = [100 * r["accuracy"].value for r in line]
        axes.errorbar(
            [r["tokens"] for r in line],
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
            if "threshold" in row:
                axes.annotate(
                    f"{row['threshold']:g}",
                    (row["tokens"], value),
                    (5, 4),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                )
    axes.set_xscale("log")
    for side in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        side(FuncFormatter(_thousands))
    axes.set_xlabel("tokens generated a question (log scale)")
    axes.set_ylabel("accuracy, % (95 % interval over questions)")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _thousands(tokens: float, _: int) -> str:
    """1, 2 and 5 of every decade, as 500 or 20k."""
    leading = f"{tokens:e}"[0]
    if leading not in "125" or not f"{tokens:e}".startswith(f"{leading}.000"):
        return ""
    return f"{tokens / 1000:g}k" if tokens >= 1000 else f"{tokens:g}"
