"""``deepprune judge-report``: trained judges against baselines, on any traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepprune.commands.run import SCORES, Run, command_run, log_inputs
from deepprune.config.judges import export_hash
from deepprune.config.plans import JudgeReportPlan
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file, write_json
from deepprune.core.progress import Bar
from deepprune.core.protocols import Need
from deepprune.core.types import PrefixRule, QuestionTraces, TracePair
from deepprune.data.cells import Cell
from deepprune.data.pairs import build_pairs, labels_of
from deepprune.data.splits import question_hash
from deepprune.evaluation.selection import unmet_needs
from deepprune.judge.base import Judge
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.matrix import (
    CellFacts,
    MatrixRow,
    cell_rows,
    read_matrix,
    write_matrix,
)
from deepprune.judge.saved import read_record
from deepprune.judge.score_cache import ScoreCache
from deepprune.report.figures import drawn, matrix_figure
from deepprune.report.tables import difference_table, matrix_tables, show
from deepprune.traces import TraceStore

MATRIX, JUDGES, FIGURE = "matrix.jsonl", "judges.json", "judge_matrix.png"


@dataclass(frozen=True, slots=True)
class _Task:
    """Cell with one prefix rule, and the judges that were trained on such prefixes."""

    facts: CellFacts
    store: TraceStore
    cell: Cell
    rule: PrefixRule
    judges: Mapping[str, Judge]


def judge_report(plan: JudgeReportPlan) -> Run:
    """Run ``conf/judge_report.yaml``; resume in the folder of an interrupted run."""
    exports, stores, rules = plan.exports, plan.stores, plan.rules
    needs = frozenset[Need]().union(*(read_record(path).needs for path in exports.values()))
    for name, of_store in plan.cells.items():
        for cell in of_store:
            _check_needs(needs, next(cell.groups(stores[name].group)), name)
    inputs = {f"traces.{name}": store.content_hash for name, store in stores.items()}
    inputs |= {f"judges.{name}": export_hash(path) for name, path in exports.items()}
    with command_run(plan.run, inputs) as run:
        judges = {name: load_judge(path, plan.device) for name, path in exports.items()}
        seen = frozenset[str]()
        if plan.leave_out_seen:
            seen = seen.union(*(judge.provenance.seen_questions for judge in judges.values()))
        tasks = [
            _Task(
                CellFacts(name, cell.dataset, cell.model, rule.kind, rule.k, repr(rule), n_seen),
                stores[name],
                cell,
                rule,
                {judge: judges[judge] for judge, its in rules.items() if its == rule},
            )
            for name, of_store in plan.cells.items()
            for cell, n_seen in (_unseen(cell, seen) for cell in of_store)
            for rule in dict.fromkeys(rules.values())
        ]
        if plan.words:
            for task in tasks:
                _print_words(task.judges, _pairs(plan, task))
        rows = _all_rows(plan, tasks, run)
        facts = {
            name: {
                "path": str(path),
                "name": judges[name].provenance.name,
                "fingerprint": judges[name].provenance.fingerprint,
                "n_questions_seen": len(judges[name].provenance.seen_questions),
            }
            for name, path in exports.items()
        }
        write_json(run.folder / JUDGES, facts)
        run.results_path = run.folder / MATRIX
        show(*matrix_tables(rows), difference_table(rows))
        if figure := drawn(matrix_figure, rows, run.folder / FIGURE):
            print(f"figure: {figure}")
        judged = list(judges.values())
        for store in stores.values():
            log_inputs(run, store, judged)
        matrix = run.folder / MATRIX
        run.tracker.artifact("results", [matrix], sha256_file(matrix))
        run.tracker.table("judge/matrix", [_columns(row) for row in rows])
        run.tracker.figure("judge/matrix_figure", figure)
    return run


def _print_words(judges: Mapping[str, Judge], pairs: Sequence[TracePair]) -> None:
    """Print the most likely first words of each judge on up to five pairs of each label.

    Raises:
        InputError: If one of the judges does not answer in words.
    """
    from deepprune.judge.network.cross_encoder import CrossEncoderJudge
    from deepprune.judge.network.words import first_words

    labels = labels_of(pairs)
    chosen = [i for label in (1, 0) for i in np.flatnonzero(labels == label)[:5].tolist()]
    for name, judge in judges.items():
        if not isinstance(judge, CrossEncoderJudge):
            raise InputError(f"words=true needs generative judges, got {name}: leave it out.")
        print(f"{name}, the most likely first words of {len(chosen)} pairs:")
        found = first_words(judge, [pairs[i] for i in chosen])
        for i, words in zip(chosen, found, strict=True):
            said = "  ".join(f"{word!r} {chance:.2f}" for word, chance in words)
            print(f"  {'same     ' if labels[i] else 'different'}  {said}")


def _columns(row: MatrixRow) -> dict[str, Any]:
    """Return a row of the matrix with its estimates as columns of numbers."""
    columns = {name: value for name, value in row.items() if name != "metrics"}
    for name, found in row["metrics"].items():
        columns |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return columns


def _all_rows(plan: JudgeReportPlan, tasks: Sequence[_Task], run: Run) -> list[MatrixRow]:
    """Read the recorded cells, measure and record the others."""
    recorded: dict[CellFacts, list[MatrixRow]] = {}
    for row in read_matrix(run.folder / MATRIX):
        recorded.setdefault(CellFacts.of(row), []).append(row)
    rows: list[MatrixRow] = []
    total = sum(len(task.judges) + len(plan.baselines) for task in tasks)
    with (
        ScoreCache(run.folder / SCORES) as cache,
        Bar(total=total, desc="judges x cells: ") as progress,
    ):
        for i, task in enumerate(tasks):
            if task.facts not in recorded:
                recorded[task.facts] = cell_rows(
                    task.facts,
                    _pairs(plan, task),
                    task.judges,
                    plan.baselines,
                    seed=plan.seed,
                    cache=cache,
                    on_judge=progress.update,
                )
            rows += recorded[task.facts]
            later = [row for t in tasks[i + 1 :] for row in recorded.get(t.facts, ())]
            write_matrix(run.folder / MATRIX, [*rows, *later])
            progress.update(len(rows) - progress.n)
    _print_excluded(tasks)
    if not rows and any(task.cell.questions for task in tasks):
        raise InputError(
            "no question of these traces has two traces with an answer: data.answer_style says "
            "how answers are found."
        )
    if not rows:
        raise InputError(
            "the judges were trained on all questions of these traces: give others, or "
            "leave_out_seen=false to measure on questions they have seen."
        )
    return rows


def _print_excluded(tasks: Sequence[_Task]) -> None:
    """Print how many questions of each cell are excluded."""
    for name, seen, left in dict.fromkeys(
        (task.facts.name, task.facts.n_questions_seen, len(task.cell.questions)) for task in tasks
    ):
        if seen:
            print(f"{name}: {seen} of {seen + left} questions were seen in training, excluded")


def _unseen(cell: Cell, seen: frozenset[str]) -> tuple[Cell, int]:
    """Drop the questions that a judge was trained on; also return how many those are."""
    kept = tuple(q for q in cell.questions if question_hash(q[0].question.text) not in seen)
    return Cell(cell.dataset, cell.model, kept), len(cell.questions) - len(kept)


def _check_needs(needs: frozenset[Need], group: QuestionTraces, store: str) -> None:
    """Check that a question's traces have what the judges read."""
    if missing := unmet_needs(needs, group):
        raise InputError(
            f"these judges need {' and '.join(missing)}, which {store} does not have: give others."
        )


def _pairs(plan: JudgeReportPlan, task: _Task) -> list[TracePair]:
    """Build the labelled pairs of a cell."""
    needs = frozenset[Need]().union(*(judge.needs for judge in task.judges.values()))
    pairs: list[TracePair] = []
    groups = task.cell.groups(task.store.group)
    name, total = f"{task.facts.name}, questions: ", len(task.cell.questions)
    for group in Bar(groups, desc=name, total=total):
        _check_needs(needs, group, task.facts.store)
        pairs += build_pairs(
            group,
            task.rule,
            max_pairs=plan.pairs_per_question,
            answer_style=plan.answer_style,
            seed=plan.seed,
        )
    return pairs
