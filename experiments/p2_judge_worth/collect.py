"""Collect the runs of the study in results.jsonl, draw the figure and print the tables.

python experiments/p2_judge_worth/collect.py RUN_OR_MULTIRUN_FOLDER [RUN_OR_MULTIRUN_FOLDER ...]
"""

import json
import sys
from pathlib import Path

import altair as alt

HERE = Path(__file__).parent
SKILL = {"coin": 0.5, "lexical": 0.603, "linear": 0.604, "oracle": 1.0}
"""Within-question AUROC at 500 tokens, both unfinished; a noisy oracle has its own in its name."""
REAL = ("lexical", "linear")
"""Judges that read the traces; the others are oracles with noise."""
MAIN = "accuracy_vs_matched_cons_net"
KEPT = [
    f"{name}{end}"
    for name in (
        "policy", "k", "finish", "max_finishers", "vote", "threshold", "prefix_len", "judge",
        "n_questions", "n_traces", "resamples", "seed", "accuracy", "accuracy_se_orders",
        "accuracy_vs_cons_n", MAIN, "tokens_vs_matched_accuracy", "tokens", "net_saving",
        "latency", "judge_calls", "status",
    )
    for end in ("", "_low", "_high")
]  # fmt: skip
RULES = {
    "largest cluster, K2 = 5": ("largest_cluster", "max_finishers", 5),
    "largest cluster, K2 = 20": ("largest_cluster", "max_finishers", 20),
    "representatives, plain vote": ("representatives", "vote", "plain"),
    "representatives, weighted by size": ("representatives", "vote", "size"),
}


def main(folders: list[str]) -> None:
    """Write both files and print the tables of the README."""
    rows = []
    for folder in folders:
        for file in sorted(Path(folder).glob("**/results.jsonl")):
            rows += [json.loads(line) for line in file.read_text().splitlines()]
    kept = {json.dumps({k: r[k] for k in KEPT if k in r}): None for r in rows}  # cons@k once
    (HERE / "results.jsonl").write_text("".join(f"{line}\n" for line in kept))
    drawn = []
    for name, (finish, field, value) in RULES.items():
        best: dict[str, dict] = {}
        for row in rows:
            judge = row.get("judge")
            if row.get("finish") == finish and row[field] == value and row["status"] == "ok":
                best[judge] = max(best.get(judge, row), row, key=lambda r: r[MAIN])
        print(f"\n**{name}**\n")
        print("| judge | threshold | accuracy | net saving | latency, L | against cons@k |", end="")
        print(" tokens, same accuracy |\n" + "| --- " * 7 + "|")
        for judge, row in sorted(best.items(), key=lambda item: skill(item[0])):
            print(
                f"| {judge} | {row['threshold']:g} | {100 * row['accuracy']:.1f} | "
                f"{100 * row['net_saving']:.1f} % | {row['latency']:.1f} | "
                f"{interval(row, MAIN, '{:+.1f}', 100)} | "
                f"{interval(row, 'tokens_vs_matched_accuracy', '{:.2f}', 1)} |"
            )
            points = {end or "value": 100 * row[MAIN + end] for end in ("", "_low", "_high")}
            reads = "reads the traces" if judge in REAL else "oracle with noise"
            drawn.append(
                {"rule": name, "judge": judge, "AUROC": skill(judge), "is": reads, **points}
            )
    draw(drawn)


def draw(rows: list[dict]) -> None:
    """Draw accuracy against AUROC, a panel for each finishing rule."""
    x = alt.X("AUROC:Q", title="within-question AUROC", scale=alt.Scale(domain=[0.5, 1.0]))
    title = "against cons@k of equal net tokens, points"
    noisy = alt.datum["is"] == "oracle with noise"
    base = alt.Chart(alt.Data(values=rows))
    band = base.transform_filter(noisy).mark_area(opacity=0.2).encode(x, y="_low:Q", y2="_high:Q")
    line = base.transform_filter(noisy).mark_line().encode(x, alt.Y("value:Q", title=title))
    whisker = base.mark_rule().encode(x, alt.Y("_low:Q"), alt.Y2("_high:Q"))
    point = base.mark_point(filled=True, size=60, opacity=1).encode(
        x, alt.Y("value:Q"), shape=alt.Shape("is:N", title="judge"), color=alt.Color("is:N")
    )
    zero = base.mark_rule(strokeDash=[4, 3]).encode(y=alt.datum(0))
    panel = alt.layer(zero, band, line, whisker, point).properties(width=300, height=200)
    chart = panel.facet(facet=alt.Facet("rule:N", title=None, sort=list(RULES)), columns=2)
    chart.save(HERE / "judge_worth.png", ppi=120)


def interval(row: dict, name: str, form: str, factor: float) -> str:
    """Format a value with its interval; a dash if the cons@k curve never reaches the accuracy."""
    if row.get(name) is None:
        return "-"
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    high = form.format(factor * high) if high is not None else "?"
    return f"{form.format(factor * value)} [{form.format(factor * low)}, {high}]"


def skill(judge: str) -> float:
    """Return the AUROC of a judge by its name."""
    return float(judge.split()[1]) if judge.startswith("oracle ") else SKILL[judge]


if __name__ == "__main__":
    main(sys.argv[1:])
