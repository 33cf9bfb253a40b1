"""Collect the runs of the study in results.jsonl, print the table, draw the figure.

python experiments/e4_decoder/collect.py NAME=RUN_FOLDER [NAME=RUN_FOLDER ...]

NAME is the judge's in table and figure. A run named `linear` is the baseline of its data, which is
written `TRACES TOKENS/PAIRS`: first tokens, and test pairs a question. Rows of judges that are not
named stay.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepprune.commands.report import as_markdown
from deepprune.core.statistics import estimates
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.measure.comparison import ComparedRow, RunRecord, compare, read_run
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report.figures import comparison_figure
from deepprune.report.tables import comparison_table
from deepprune.traces import open_traces

HERE = Path(__file__).parent
BASELINE, LEXICAL = "linear", "lexical"


def main(named: list[str]) -> None:
    """Write both files and print the table of the README."""
    runs: dict[str, list[RunRecord]] = {}
    for name, folder in (arg.split("=", 1) for arg in named):
        run = read_run(Path(folder))
        if run.scores is None:
            print(f"{folder} has not finished, skipped")
            continue
        config = json.loads((Path(folder) / "config.json").read_text())
        store, k = Path(config["traces"]).stem.partition("_")[0], config["prefix"]["k"]
        data = f"{store} {k}/{config['data']['eval_pairs_per_question']}"
        of_data = runs.setdefault(data, [])
        if not of_data:
            of_data.append(labelled(lexical(config, run), LEXICAL, data))
        of_data.append(labelled(run, name, data))
    results = HERE / "results.jsonl"
    kept = [read_row(json.loads(line)) for line in results.read_text().splitlines()]
    new = [row for of_data in runs.values() for row in compare(of_data, {"judge": BASELINE})]
    rows = merged(kept, new)
    results.write_text("".join(json.dumps(row.record()) + "\n" for row in rows))
    print(as_markdown([], [comparison_table(rows)]))
    comparison_figure(rows, HERE / "judges.png")


def read_row(record: dict[str, Any]) -> ComparedRow:
    """Read a line of `results.jsonl`."""
    metrics, differences = estimates(record["metrics"]), estimates(record["differences"])
    overrides = record["overrides"]
    runs = [RunRecord(name, "ok", "", 0, overrides, "", {}, None) for name in record["runs"]]
    return ComparedRow(overrides, runs, [], metrics, record["baseline"], differences)


def merged(kept: list[ComparedRow], new: list[ComparedRow]) -> list[ComparedRow]:
    """Replace kept rows by new ones of the same judge and data, and group the rows by data."""
    rows = {(row.overrides["data"], row.overrides["judge"]): row for row in [*kept, *new]}
    groups = dict.fromkeys(data for data, _ in rows)
    return [row for group in groups for (data, _), row in rows.items() if data == group]


def labelled(run: RunRecord, judge: str, data: str) -> RunRecord:
    """Replace a run's overrides by what tells the rows of the table apart."""
    return replace(run, name=judge, overrides={"judge": judge, "data": data}, folder=None)


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
