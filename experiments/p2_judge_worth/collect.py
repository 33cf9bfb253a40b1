"""Add runs to the rows of results.jsonl and draw the figure.

python experiments/p2_judge_worth/collect.py MULTIRUN_FOLDER [MULTIRUN_FOLDER ...]
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
SKILL = {"coin": 0.5, "lexical": 0.59, "features": 0.604, "linear": 0.632, "oracle": 1.0}
"""Within-question AUROC at 500 tokens, both unfinished; a noisy oracle has its own in its name."""
REAL = ("lexical", "features", "linear")
"""Judges that read the traces; the others are oracles with noise."""
KEPT = [
    f"{name}{end}"
    for name in (
        "policy", "k", "finish", "max_finishers", "vote", "threshold", "prefix_len", "judge",
        "n_questions", "n_traces", "resamples", "seed", "accuracy", "accuracy_vs_cons_n",
        "accuracy_vs_matched_cons_net", "tokens_vs_matched_accuracy", "tokens", "net_saving",
        "judge_calls", "status",
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
    rows = [json.loads(line) for line in (HERE / "results.jsonl").read_text().splitlines()]
    for folder in folders:
        found = sorted(Path(folder).glob("*/results.jsonl"))
        for file in found or [Path(folder, "results.jsonl")]:
            rows += [json.loads(line) for line in file.read_text().splitlines()]
    kept = {json.dumps({k: r[k] for k in KEPT if k in r}): None for r in rows}  # cons@k once
    (HERE / "results.jsonl").write_text("".join(f"{line}\n" for line in kept))
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    axes.axhline(0, color="0.45", lw=1)
    table: dict[str, dict[str, dict]] = {}
    for name, (finish, field, value) in RULES.items():
        mine = [r for r in rows if r.get("finish") == finish and r[field] == value]
        best = {}
        for judge in dict.fromkeys(r["judge"] for r in mine):
            found = [r for r in mine if r["judge"] == judge]
            best[judge] = max(found, key=lambda r: r["accuracy_vs_matched_cons_net"])
        best = dict(sorted(best.items(), key=lambda item: skill(item[0])))
        table[name] = best
        made = [j for j in best if j not in REAL]
        (line,) = axes.plot(
            [skill(j) for j in made], gains(best, made), "o-", ms=4, lw=1.2, label=name
        )
        axes.fill_between(
            [skill(j) for j in made],
            gains(best, made, "_low"),
            gains(best, made, "_high"),
            color=line.get_color(),
            alpha=0.1,
        )
        real = [j for j in best if j in REAL]
        axes.plot(
            [skill(j) for j in real], gains(best, real), "*", ms=11, mec="k", color=line.get_color()
        )
    axes.set_ylim(-18.5, 4.5)
    for judge, place in SKILL.items():
        if any(judge in best for best in table.values()):
            height = 3.6 if judge != "features" else 3.0  # beside lexical and linear
            axes.annotate(judge, (place, height), fontsize=8, ha="center", color="0.35")
    axes.set_xlabel("within-question AUROC of the judge")
    axes.set_ylabel("accuracy against cons@k of equal net tokens, points")
    axes.set_title(
        "What a judge is worth, at its best of five thresholds (features, linear: 32 questions)",
        fontsize=10,
        loc="left",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower left", title="stars: judges that read the traces")
    figure.savefig(HERE / "judge_worth.png", dpi=150)
    for name, best in table.items():
        print(f"\n**{name}**\n")
        print(
            "| judge | threshold | accuracy | net saving | against cons@k | tokens, same accuracy |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        for judge, r in best.items():
            print(
                f"| {judge} | {r['threshold']:g} | {100 * r['accuracy']:.1f} | "
                f"{100 * r['net_saving']:.1f} % | "
                f"{interval(r, 'accuracy_vs_matched_cons_net', '{:+.1f}', 100)} | "
                f"{interval(r, 'tokens_vs_matched_accuracy', '{:.2f}', 1)} |"
            )


def interval(row: dict, name: str, form: str, factor: float) -> str:
    """Format a value with its interval; a dash if the cons@k curve never reaches the accuracy."""
    if row.get(name) is None:
        return "-"
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    high = form.format(factor * high) if high is not None else "?"
    return f"{form.format(factor * value)} [{form.format(factor * low)}, {high}]"


def gains(best: dict[str, dict], judges: list[str], end: str = "") -> list[float]:
    """Return accuracy minus that of cons@k of equal net tokens, in points."""
    return [100 * best[judge][f"accuracy_vs_matched_cons_net{end}"] for judge in judges]


def skill(judge: str) -> float:
    """Return the AUROC of a judge by its name."""
    return float(judge.split()[1]) if judge.startswith("oracle ") else SKILL[judge]


if __name__ == "__main__":
    main(sys.argv[1:])
