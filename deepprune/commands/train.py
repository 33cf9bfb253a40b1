"""``train.py``: train a judge, export it, report it, and sweep pruning policies with it."""

from __future__ import annotations

from omegaconf import DictConfig

from deepprune.commands.fit import fit
from deepprune.commands.run import SCORES, Run, command_run, is_rank_zero
from deepprune.commands.sweep import (
    check_parts,
    headline,
    run_sweep,
    say_left_out,
    sweep_points,
)
from deepprune.config import build
from deepprune.data.pairs import build_pairs
from deepprune.data.splits import Splits
from deepprune.evaluation.judge_report import JudgeReport, judge_report, write_judge_reports
from deepprune.judge.base import Judge
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.score_cache import ScoreCache
from deepprune.report.tables import judge_table, show, sweep_table
from deepprune.types import TracePair


def train(config: DictConfig) -> Run:
    """Run ``conf/train.yaml``; in the folder of an interrupted run, do what is missing."""
    sweep = build.sweep(config)
    parts = build.fit_parts(config)
    store = build.store(config)
    groups = build.groups(config, store)
    splits = build.splits(config, groups)
    held_out = {(g.question, g.model) for g in splits.test}
    refs = [r for r in build.refs(config, store) if (r.question, r.model) in held_out]
    questions, n_traces = build.questions(config, refs)
    say_left_out(sweep, sweep_points(sweep, store, questions, n_traces))
    check_parts(config, questions)
    with command_run(config, "train", {"traces": store.content_hash}) as run:
        export = run.folder / "judge"

        def after_training(judge: Judge) -> None:
            """What follows once the export is on disk, in this start of the run or another."""
            with ScoreCache(run.folder / SCORES) as cache:
                reports = _report(config, parts, splits, judge, run, cache)
                result = run_sweep(config, sweep, questions, n_traces, store, judge, run, cache)
            headline(result.rows, run)
            show(
                judge_table({name: r["all"] for name, r in reports.items()}),
                sweep_table(result.rows, f"pruning with {judge.provenance.name}"),
            )

        if export.exists() and is_rank_zero():
            print(f"the judge of this run is trained: {export}")
            after_training(Judge.load(export))
        elif not export.exists():
            fit(config, parts, splits, run, export, after_training)
    return run


def _report(
    config: DictConfig,
    parts: build.FitParts,
    splits: Splits,
    judge: Judge,
    run: Run,
    cache: ScoreCache,
) -> dict[str, JudgeReport]:
    """The judge beside the lexical line, on all test questions; written and logged."""
    pairs: list[TracePair] = []
    for group in splits.test:
        pairs += build_pairs(
            group,
            parts.rule,
            max_pairs=config.data.eval_pairs_per_question,
            answer_style=parts.answer_style,
            seed=config.seed,
        )
    judges = (judge, LexicalJudge())
    reports = {
        j.provenance.name: judge_report(j, pairs, seed=config.seed, cache=cache) for j in judges
    }
    write_judge_reports(run.folder / "judge_report.json", reports)
    mine = reports[judge.provenance.name]["all"]
    run.metrics |= mine
    if run.wandb is not None:
        for name, estimate in mine.items():
            run.wandb.summary[f"judge/test/{name}"] = estimate.value
    return reports
