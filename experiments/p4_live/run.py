"""Run race, DeepPrune and cons@16 live on vLLM, question by question, and replay what was recorded.

    python experiments/p4_live/run.py MODEL_FOLDER RUN_FOLDER

The policies run each question in an order drawn for it, on one engine, so that whatever else the
machine does meets all alike. Traces and results are recorded as by `deepprune prune`; the same
command resumes. Then each recording is replayed with its policy, and the README's table printed.
"""

import json
import sys
from pathlib import Path

import numpy as np

from deepprune.core.types import QuestionTraces
from deepprune.data.prefixes import FirstTokens
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.generation.backend import PromptFormat, Sampling
from deepprune.generation.live import LiveEngine
from deepprune.generation.vllm import VllmBackend
from deepprune.judge.baselines import LexicalJudge
from deepprune.live.guard import JudgeWorker
from deepprune.live.pruner import LivePruner
from deepprune.live.record import LiveRecord
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.policies.race import Race
from deepprune.pruning.replay import ReplayEngine
from deepprune.traces import TraceStore, open_traces

HERE = Path(__file__).parent
N, SEED = 16, 0
TASK = "chain_sum"  # 12 questions, those of the pool with the shortest traces
POLICIES = {
    "cons@16": Consensus(),
    "race": Race(width=4, budget=50),
    "deepprune": DeepPrune(FirstTokens(32), threshold=0.1, max_finishers=4, singleton_finishers=4),
}
SIZE = GeneratorSize(0.494e9, 24, 896)
SHOWN = ("policy", "question_id", "is_correct", "tokens", "seconds", "judge_seconds", "mean_length")


def main(model: str, folder: Path) -> None:
    """Run what is missing, replay all, write results.jsonl and print the table."""
    source = open_traces("pool")
    questions = [q for ref in source.refs() if (q := ref.question).question_id.startswith(TASK)]
    backend = VllmBackend(
        model,
        dtype="float32",  # the CPU has no bfloat16
        max_model_len=2048,
        enforce_eager=True,
        max_num_seqs=N,
        extra={"block_size": 32},
    )
    live = LiveEngine(backend, PromptFormat(), Sampling(640, temperature=0.7, top_p=0.95))
    records = {name: LiveRecord(folder / name, live, questions) for name in POLICIES}
    worker, judge = JudgeWorker(60), LexicalJudge()

    def pruner(name: str, open_session) -> LivePruner:
        return LivePruner(open_session, live.model, POLICIES[name], judge, worker, N, SEED, SIZE)

    try:
        live.start()
        for number, question in enumerate(questions):
            names = [name for name in POLICIES if not records[name].is_decided(question)]
            for name in np.random.default_rng([SEED, number]).permutation(names).tolist():
                length = records[name].mean_length(live.prior_length)
                done = pruner(name, live.open).prune(question, mean_length=length)
                records[name].write(done)
                row = done.row
                print(
                    f"{number + 1} of {len(questions)}, {name}: {row['answer']}, "
                    f"{row['tokens']} tokens, {row['seconds']:.0f} s",
                    flush=True,
                )
    finally:
        live.close()
    rows = []
    for name, record in records.items():
        store = TraceStore.open(folder / name / "traces")
        groups = {ref.question.key: store.group(ref) for ref in store.refs()}

        def replay(question, model, n_traces, seed, groups=groups):
            group: QuestionTraces = groups[question.key]
            n = min(n_traces, len(group.traces))
            return ReplayEngine(group, shuffle=False).open(n, seed)

        for row in record.rows:
            question = next(q for q in questions if q.question_id == row["question_id"])
            again = pruner(name, replay).prune(question, mean_length=row["mean_length"]).row
            same = {
                f"same_{field}": again[field] == row[field]
                for field in ("decisions", "voters", "weights", "answer")
            }
            rows.append({field: row[field] for field in SHOWN} | {"policy": name} | same)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (HERE / "results.jsonl").write_text(lines, encoding="utf-8")
    table(rows)


def table(rows: list[dict]) -> None:
    """Print means by policy, ratios to cons@16, and in how many questions the replay agrees."""
    print(
        "| policy | right | tokens a question | seconds a question | of cons@16: tokens, seconds",
        end="",
    )
    print(" (median) | equal in the replay: decisions, votes |\n" + "| --- " * 6 + "|")
    base = {row["question_id"]: row for row in rows if row["policy"] == "cons@16"}
    for name in POLICIES:
        mine = [row for row in rows if row["policy"] == name]
        tokens, seconds = (sum(row[key] for row in mine) for key in ("tokens", "seconds"))
        of = [tokens / sum(r["tokens"] for r in base.values())]
        of += [seconds / sum(r["seconds"] for r in base.values())]
        median = np.median([row["seconds"] / base[row["question_id"]]["seconds"] for row in mine])
        votes = sum(row["same_voters"] and row["same_answer"] for row in mine)
        print(
            f"| {name} | {sum(row['is_correct'] for row in mine)} of {len(mine)} | "
            f"{tokens / len(mine):,.0f} | {seconds / len(mine):.1f} | "
            f"{of[0]:.2f}, {of[1]:.2f} ({median:.2f}) | "
            f"{sum(row['same_decisions'] for row in mine)}, {votes} of {len(mine)} |"
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
