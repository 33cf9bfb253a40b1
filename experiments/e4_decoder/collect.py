"""Collect the runs of the study in results.jsonl, print the table, draw the figure.

python experiments/e4_decoder/collect.py NAME=RUN_FOLDER [NAME=RUN_FOLDER ...]

NAME is the judge's in table and figure. A run named `linear` is the baseline of its data: of runs
with the same traces, prefix and number of test pairs.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from deepprune.commands.report import as_markdown
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.measure.comparison import RunRecord, compare, read_run
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report.figures import comparison_figure
from deepprune.report.tables import comparison_table
from deepprune.traces import open_traces

HERE = Path(__file__).parent
BASELINE, LEXICAL = "linear", "lexical"


def main(named: list[str]) -> None:
    """Write both files and print the table of the README."""
    runs: dict[tuple[str, ...], list[RunRecord]] = {}
    for name, folder in (arg.split("=", 1) for arg in named):
        run = read_run(Path(folder))
        if run.scores is None:
            print(f"{folder} has not finished, skipped")
            continue
        config = json.loads((Path(folder) / "config.json").read_text())
        data = {
            "traces": Path(config["traces"]).stem,
            "tokens": str(config["prefix"]["k"]),
            "pairs": str(config["data"]["eval_pairs_per_question"]),
        }
        of_data = runs.setdefault(tuple(data.values()), [])
        if not of_data:
            of_data.append(labelled(lexical(config, run), LEXICAL, data))
        of_data.append(labelled(run, name, data))
    rows = [row for of_data in runs.values() for row in compare(of_data, {"judge": BASELINE})]
    lines = [json.dumps(row.record()) + "\n" for row in rows]
    (HERE / "results.jsonl").write_text("".join(lines))
    print(as_markdown([], [comparison_table(rows)]))
    comparison_figure(rows, HERE / "judges.png")


def labelled(run: RunRecord, judge: str, data: dict[str, str]) -> RunRecord:
    """Replace a run's overrides by what tells the rows of the table apart."""
    return replace(run, name=judge, overrides={"judge": judge, **data}, folder=None)


def lexical(config: dict, run: RunRecord) -> RunRecord:
    """Score the test pairs of a run by `lexical`."""
    data, store = config["data"], open_traces(config["traces"])
    names = set(run.scores.question)
    pairs = [
        pair
        for ref in store.refs()
        if f"{ref.question.dataset}/{ref.question.question_id}" in names
        for pair in build_pairs(
            store.group(ref),
            FirstTokens(config["prefix"]["k"]),
            max_pairs=data["eval_pairs_per_question"],
            seed=data["split_seed"],
        )
    ]
    scores = PairScores.of(pairs, LexicalJudge().score(pairs))
    return replace(run, metrics={}, scores=scores)


if __name__ == "__main__":
    main(sys.argv[1:])
