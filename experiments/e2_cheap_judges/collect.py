"""Collect the runs of the study in results.jsonl, print the table, draw the figure.

python experiments/e2_cheap_judges/collect.py TRACES NAME=MULTIRUN_FOLDER [NAME=MULTIRUN_FOLDER ...]
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np

from deepprune.core.types import TracePair, among_peers
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.comparison import RunRecord, compare, join_folds, read_runs
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.traces import open_traces

HERE = Path(__file__).parent
N = 64  # traces per question
METRICS = ("auroc_within_unfinished", "auroc_unfinished")
LEXICAL = "number overlap"


def main(traces: str, folders: list[str]) -> None:
    """Write both files and print the table of the README."""
    store = open_traces(traces)
    groups = [store.group(ref) for ref in store.refs()]
    runs, exports = [], {}
    for name, folder in (f.split("=", 1) for f in folders):
        for run in join_folds(read_runs(Path(folder))):
            if run.scores is None:
                print(f"{folder}: {run.name} has not finished, skipped")
                continue
            k = run.overrides.get("prefix.k") or run.overrides["prefix"].rsplit("_", 1)[1]
            overrides = {"judge": name, "k": str(k), "seed": run.overrides.get("seed", "0")}
            runs.append(replace(run, name=f"{name} {run.name} {k}", overrides=overrides))
            exports[name, str(k)] = Path(folder, run.name.split("+")[0], "judge")
    lines = []
    for k in sorted({r.overrides["k"] for r in runs}, key=int):
        here = [r for r in runs if r.overrides["k"] == k]
        here.append(lexical(groups, int(k), here[0]))
        costs = {
            name: cost(path, groups[0], int(k)) for (name, at), path in exports.items() if at == k
        }
        for row in compare(here, {"judge": LEXICAL}):
            lines.append({**row.record(), "cost": costs.get(row.overrides["judge"])})
    (HERE / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table(lines)
    figure(lines)


def lexical(groups, k: int, other: RunRecord) -> RunRecord:
    """Score the pairs of another run, which depend on its split seed, by number overlap."""
    names = set(other.scores.question)
    pairs = [
        pair
        for group in groups
        if f"{group.question.dataset}/{group.question.question_id}" in names
        for pair in build_pairs(group, FirstTokens(k), seed=0)
    ]
    scores = PairScores.of(pairs, LexicalJudge().score(pairs))
    overrides = {"judge": LEXICAL, "k": str(k), "seed": "0"}
    return RunRecord(f"lexical {k}", "ok", "", 0, overrides, "", {}, scores)


def cost(export: Path, group, k: int) -> dict[str, float]:
    """Measure FLOPs of all pairs of N prefixes, and pairs per second on this machine."""
    judge = load_judge(export, "cpu")
    rule = FirstTokens(k)
    prefixes = among_peers([p.first for p in firsts(group, rule)[:N]])
    first, second = np.triu_indices(len(prefixes), 1)
    pairs = [TracePair(prefixes[i], prefixes[j]) for i, j in zip(first, second, strict=True)]
    some = pairs if not judge.is_model or judge.is_symmetric else pairs[:64]
    start = time.perf_counter()
    judge.score(some)
    seconds = time.perf_counter() - start
    prices = judge.pair_prices(pairs), judge.prefix_prices(prefixes)
    flops = float(sum(part.flops.sum() for part in prices))
    return {"flops": flops, "pairs_per_second": len(some) / seconds}


def firsts(group, rule) -> list[TracePair]:
    """Return one pair for each prefix."""
    pairs = build_pairs(group, rule, seed=0)
    return list({p.first.trace.sample_id: p for p in pairs}.values())


def table(lines: list[dict]) -> None:
    """Print the rows as a Markdown table."""
    print("| tokens | judge | within | pooled | within, minus number overlap |", end="")
    print(" FLOPs per question | pairs/s |\n" + "| --- " * 7 + "|")
    for row in lines:
        cells = [said(row["metrics"].get(m)) for m in METRICS]
        cells.append(said(row["differences"].get(METRICS[0]), sign="+"))
        if row["cost"]:
            cells += [f"{row['cost']['flops']:.2g}", f"{row['cost']['pairs_per_second']:,.0f}"]
        else:
            cells += ["0", ""]
        print(f"| {row['overrides']['k']} | {row['overrides']['judge']} | {' | '.join(cells)} |")


def said(estimate, sign: str = "") -> str:
    """Format value and interval."""
    if not estimate:
        return ""
    value, low, high = (f"{v:{sign}.3f}" for v in estimate)
    return f"{value} [{low}, {high}]"


def figure(lines: list[dict]) -> None:
    """Draw within-question AUROC by prefix length."""
    rows = []
    for row in lines:
        value, low, high = row["metrics"][METRICS[0]]
        name = {"judge": row["overrides"]["judge"], "tokens": int(row["overrides"]["k"])}
        rows.append({**name, "value": value, "low": low, "high": high})
    names = sorted({row["judge"] for row in rows})
    x, side = alt.X("tokens:O", title="prefix, tokens"), alt.XOffset("judge:N", sort=names)
    title = "AUROC within question, both unfinished"
    base = alt.Chart(alt.Data(values=rows)).encode(x, xOffset=side, color=alt.Color("judge:N"))
    whisker = base.mark_rule().encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    point = base.mark_point(filled=True, size=70, opacity=1).encode(
        alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)), shape=alt.Shape("judge:N")
    )
    half = alt.Chart().mark_rule(strokeDash=[4, 3]).encode(y=alt.datum(0.5))
    chart = alt.layer(half, whisker, point, data=alt.Data(values=rows))
    chart.properties(width=420, height=260).save(HERE / "quality_cost.png", ppi=120)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
