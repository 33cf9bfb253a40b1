"""``train.py``: train judges, export and report them, and sweep pruning policies with them."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from deepprune.commands.fit import fit
from deepprune.commands.run import SCORES, Run, command_run, finished_run, is_rank_zero, log_inputs
from deepprune.commands.sweep import chosen_questions, headline, run_sweep
from deepprune.config.judges import check_unseen, chosen_export, export_hash, with_further
from deepprune.config.plans import Sweep, TrainPlan
from deepprune.core.files import write_atomic, write_json
from deepprune.core.statistics import Estimate
from deepprune.core.types import QuestionRef, TracePair
from deepprune.data.pairs import build_pairs
from deepprune.data.splits import Splits
from deepprune.evaluation.selection import check_judge_needs
from deepprune.judge.base import Judge
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.bootstrap import QuestionDraws, estimates_by_part
from deepprune.judge.measure.comparison import HEADLINE, TEST_SCORES
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.judge.saved import read_record
from deepprune.judge.score_cache import ScoreCache, cached_scores
from deepprune.judge.trained import TrainedJudge
from deepprune.report.figures import drawn, reliability_figure
from deepprune.report.model_card import CARD, model_card
from deepprune.report.tables import finding, judges_table, policy_table, show
from deepprune.report.tracking import OBJECTIVE

CALIBRATION = ("ece", "ece_unfinished", "brier", "brier_unfinished")

CARD_PAIRS = 200
"""Pairs from which a model card has the mean bill."""

Reports = dict[str, dict[str, dict[str, Estimate]]]
"""Estimates by judge, part of the pairs and metric."""


def train(plan: TrainPlan) -> Run:
    """Run ``conf/train.yaml``; in the folder of an interrupted run, do what is missing."""
    sweep = plan.sweep
    inputs = {"traces": plan.store.content_hash, **(sweep.inputs if sweep else {})}
    if (finished := finished_run(plan.run, inputs)) is not None:
        return finished
    splits = plan.load_splits()
    learners = {"": plan.learner, **plan.beside}
    for learner in learners.values():
        needs = learner.architecture.needs
        check_judge_needs(needs, [*splits.train, *splits.val, *splits.test])
    chosen = None if sweep is None else _test_questions(plan, sweep, splits)
    with command_run(plan.run, inputs) as run:
        folders = {name: run.folder / "beside" / name if name else run.folder for name in learners}
        for name, learner in learners.items():
            if not (export := folders[name] / "judge").exists():
                fit(plan, learner, splits, folders[name], run.tracker.loggers(name))
                gc.collect()  # a Trainer has cycles: its model would stay beside those to come
            elif is_rank_zero():
                print(f"the judge of this run is trained: {export}")
        exports = [folder / "judge" for folder in folders.values()]
        if is_rank_zero() and all(export.exists() for export in exports):
            log_inputs(run, plan.store)
            _report_and_sweep(plan, splits, chosen, exports, run)
    return run  # the other ranks of a training end here


def _report_and_sweep(
    plan: TrainPlan,
    splits: Splits,
    chosen: tuple[list[QuestionRef], int] | None,
    exports: Sequence[Path],
    run: Run,
) -> None:
    """Report and sweep the exported judges: what users load, not the models in memory."""
    beside = {str(export): chosen_export(export) for export in exports[1:]}
    first = load_judge(exports[0])
    trained = with_further({first.provenance.name: first}, beside)
    with ScoreCache(run.folder / SCORES) as cache:
        run.objective = read_record(exports[0]).training.get(HEADLINE)
        run.tracker.values("judge", {OBJECTIVE: run.objective})
        reports = _report(plan, splits, trained, [e.parent for e in exports], run, cache)
        tables, said = [judges_table(reports)], ""
        if plan.sweep is not None and chosen is not None:
            judges = with_further(trained, plan.sweep.judges)
            found = run_sweep(plan.sweep, *chosen, judges, run, cache)
            headline(found, first.provenance.name, run)
            tables.append(policy_table(found))
            said = fill(finding(found), 120)
    show(*tables)
    if said:
        print(f"{said}\n")


def _test_questions(plan: TrainPlan, sweep: Sweep, splits: Splits) -> tuple[list[QuestionRef], int]:
    """Choose the questions of the sweep and N, and check the sweep before anything is trained."""
    held_out = {(g.question, g.model) for g in splits.test}
    needs = {
        f"that {name or 'model'} trains": each.architecture.needs
        for name, each in {"": plan.learner, **plan.beside}.items()
    }
    needs |= {name: judge.needs for name, judge in sweep.judges.items()}
    refs = [ref for ref in sweep.refs if (ref.question, ref.model) in held_out]
    questions, n_traces = chosen_questions(sweep, refs, needs)
    check_unseen(sweep.judges, questions)
    return questions, n_traces


def _report(
    plan: TrainPlan,
    splits: Splits,
    trained: Mapping[str, Judge],
    folders: Sequence[Path],
    run: Run,
    cache: ScoreCache,
) -> Reports:
    """Measure the judges and the lexical baseline on all test questions; write and log it."""
    pairs: list[TracePair] = []
    for traces in splits.test:
        pairs += build_pairs(
            traces,
            plan.rule,
            max_pairs=plan.eval_pairs_per_question,
            answer_style=plan.answer_style,
            seed=plan.split_seed,
        )
    lexical = PairScores.of(pairs, LexicalJudge().score(pairs))
    draws = QuestionDraws(lexical.question)  # as in a comparison of runs
    reports: Reports = {}
    for (name, judge), folder in zip(trained.items(), folders, strict=True):
        assert isinstance(judge, TrainedJudge)
        after = PairScores.of(pairs, cached_scores(judge, cache, pairs))
        before = after._replace(scores=judge.calibration.undo(after.scores))
        after.save(folder / TEST_SCORES)
        reports[name] = estimates_by_part(pairs, after, draws)
        errors = {"before": draws.estimates(before), "after": reports[name]["all"]}
        errors = {w: {m: e[m] for m in CALIBRATION} for w, e in errors.items()}
        about = {"calibration": judge.calibration.to_json(), **errors}
        write_json(folder / "calibration.json", about)
        figure = drawn(reliability_figure, before, after, folder / "reliability.png")
        section = "judge" if folder == run.folder else f"beside_{folder.name}"
        run.tracker.values(section, {f"test_{m}": e for m, e in reports[name]["all"].items()})
        uncalibrated = {f"test_{m}_uncalibrated": errors["before"][m] for m in ("ece", "brier")}
        run.tracker.values(section, uncalibrated)
        run.tracker.figure(f"{section}/reliability", figure)
        run.tracker.table(f"{section}/scores", after.histogram())
        export = folder / "judge"
        card = model_card(
            read_record(export),
            reports[name]["all"],
            judge.pair_prices(pairs[:CARD_PAIRS]),
            datasets=sorted({group.question.dataset for group in splits.train}),
            models=sorted({group.model for group in splits.train}),
        )
        write_atomic(export / CARD, card)
        run.tracker.artifact("model", [export], export_hash(export))
    run.metrics |= next(iter(reports.values()))["all"]
    reports["lexical"] = estimates_by_part(pairs, lexical, draws)
    write_json(run.folder / "judge_report.json", reports)
    return reports
