"""Score other traces of the same questions with judges of a cross-validation.

Each question is scored by the judge of a fold that has not seen it.

python experiments/e3_transfer/qwq_mix.py TRACES NAME=MULTIRUN_FOLDER [NAME=MULTIRUN_FOLDER ...]
"""

import json
import sys
from pathlib import Path

from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.data.splits import question_hash
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.comparison import RunRecord, compare, read_runs
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.traces import open_traces

HERE = Path(__file__).parent
K = 500
SHOWN = ("auroc_within_unfinished", "auroc_unfinished", "auroc_within", "auroc")


def main(traces: str, folders: list[str]) -> None:
    """Write qwq_mix.jsonl and print the table of the README."""
    store = open_traces(traces)
    groups = [store.group(ref) for ref in store.refs(datasets=["math500"])]
    of_question = {
        question_hash(g.question.text): build_pairs(g, FirstTokens(K), seed=0) for g in groups
    }
    runs = []
    for name, folder in (f.split("=", 1) for f in folders):
        parts, tested = [], set()
        for run in read_runs(Path(folder)):
            if run.overrides.get("prefix.k", str(K)) != str(K):
                continue
            judge = load_judge(Path(folder, run.name, "judge"), "cpu")
            unseen = set(of_question) - judge.provenance.seen_questions - tested
            tested |= unseen
            pairs = [pair for question in sorted(unseen) for pair in of_question[question]]
            parts.append(PairScores.of(pairs, judge.score(pairs)))
        print(f"{name}: {len(tested)} of {len(of_question)} questions, {len(parts)} judges")
        runs.append(record(name, PairScores.concatenate(parts)))
    pairs = [pair for question in sorted(of_question) for pair in of_question[question]]
    runs.append(record("number overlap", PairScores.of(pairs, LexicalJudge().score(pairs))))
    rows = [row.record() for row in compare(runs, {"judge": "number overlap"})]
    (HERE / "qwq_mix.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print("| judge | " + " | ".join(SHOWN) + " | within, minus number overlap |")
    for row in rows:
        cells = [said(row["metrics"][name]) for name in SHOWN]
        cells.append(said(row["differences"].get(SHOWN[0])))
        print(f"| {row['overrides']['judge']} | " + " | ".join(cells) + " |")


def record(name: str, scores: PairScores) -> RunRecord:
    """Return the scores as a run for `compare`."""
    return RunRecord(name, "ok", "", 0, {"judge": name}, "", {}, scores)


def said(estimate) -> str:
    """Format value and interval."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*estimate) if estimate else ""


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
