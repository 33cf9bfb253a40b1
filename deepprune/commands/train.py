"""``train.py``: train a judge, export it, report it, and sweep pruning policies with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from deepprune.commands.fit import fit
from deepprune.commands.run import SCORES, Run, command_run, finished_run, is_rank_zero
from deepprune.commands.sweep import (
    check_parts,
    headline,
    run_sweep,
    say_left_out,
    sweep_points,
)
from deepprune.config import build
from deepprune.config.judges import FurtherJudge, all_judges, check_unseen, further_judges
from deepprune.core.files import write_json
from deepprune.core.statistics import Estimate
from deepprune.core.types import QuestionRef, TracePair
from deepprune.data.pairs import build_pairs
from deepprune.data.splits import Splits
from deepprune.evaluation.selection import check_judge_needs
from deepprune.judge.base import Judge
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.calibration import Platt
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.bootstrap import QuestionDraws, estimates_by_part
from deepprune.judge.measure.comparison import HEADLINE, TEST_SCORES
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.judge.score_cache import ScoreCache, cached_scores
from deepprune.judge.trained import TrainedJudge
from deepprune.report.figures import drawn, reliability_figure
from deepprune.report.tables import SHOWN_CALIBRATION, judge_table, show, sweep_table
from deepprune.traces import TraceStore


def train(config: DictConfig) -> Run:
    """Run ``conf/train.yaml``; in the folder of an interrupted run, do what is missing."""
    sweep = build.sweep(config) if build.has_sweep(config) else None
    parts = build.fit_parts(config)
    store = build.store(config)
    further = {} if sweep is None else further_judges(list(config.sweep.judges), config.seed)
    inputs: dict[str, str | None] = {"traces": store.content_hash}
    inputs |= {name: judge.sha256 for name, judge in further.items() if judge.sha256}
    if (finished := finished_run(config, inputs)) is not None:
        return finished
    splits = build.splits(config, build.groups(config, store))
    check_judge_needs(parts.architecture.needs, [*splits.train, *splits.val, *splits.test])
    pruning = None if sweep is None else _pruning(config, sweep, parts, store, splits, further)
    with command_run(config, "train", inputs) as run:
        export = run.folder / "judge"

        def after_training(judge: Judge) -> None:
            """Report and sweep the exported judge: what users load, not the model in memory."""
            with ScoreCache(run.folder / SCORES) as cache:
                run.objective = _objective(config, parts, splits, judge, cache)
                reports = _report(config, parts, splits, judge, run, cache)
                tables = [judge_table({name: r["all"] for name, r in reports.items()})]
                if pruning is not None:
                    judges = all_judges(judge, further)
                    rows = run_sweep(config, *pruning, store, judges, run, cache)
                    headline(rows, run)
                    title = f"pruning with {', '.join(judges)}"
                    tables.append(sweep_table(rows, title))
            show(*tables)

        if not export.exists():
            fit(config, parts, splits, run, export)
        elif is_rank_zero():
            print(f"the judge of this run is trained: {export}")
        if is_rank_zero() and export.exists():  # the other ranks of a training end here
            after_training(load_judge(export))
    return run


class _Pruning(NamedTuple):
    """A sweep on the test questions."""

    sweep: build.Sweep
    questions: list[QuestionRef]
    n_traces: int


def _pruning(
    config: DictConfig,
    sweep: build.Sweep,
    parts: build.FitParts,
    store: TraceStore,
    splits: Splits,
    further: Mapping[str, FurtherJudge],
) -> _Pruning:
    """Check the pruning sweep that follows the training, and return it."""
    held_out = {(g.question, g.model) for g in splits.test}
    refs = [r for r in build.refs(config, store) if (r.question, r.model) in held_out]
    questions, n_traces = build.questions(config, refs)
    check_unseen(further, questions)
    needs = {"the trained judge": parts.architecture.needs}
    needs |= {name: judge.needs for name, judge in further.items()}
    say_left_out(sweep, sweep_points(sweep, store, questions, n_traces, needs))
    check_parts(config, questions)
    return _Pruning(sweep, questions, n_traces)


def _objective(
    config: DictConfig,
    parts: build.FitParts,
    splits: Splits,
    judge: Judge,
    cache: ScoreCache,
) -> float | None:
    """Within-question AUROC of the exported judge on unfinished validation pairs."""
    pairs = build.part_pairs(config, parts, splits, "val")
    pairs = [pair for pair in pairs if pair.is_unfinished]
    if not pairs:
        return None
    value = PairScores.of(pairs, cached_scores(judge, cache, pairs)).metric(HEADLINE)
    return None if np.isnan(value) else value


def _report(
    config: DictConfig,
    parts: build.FitParts,
    splits: Splits,
    judge: Judge,
    run: Run,
    cache: ScoreCache,
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Measure the judge and the lexical baseline on all test questions; write and log it."""
    pairs: list[TracePair] = []
    for group in splits.test:
        pairs += build_pairs(
            group,
            parts.rule,
            max_pairs=config.data.eval_pairs_per_question,
            answer_style=parts.answer_style,
            seed=config.data.split_seed,
        )
    scored = PairScores.of(pairs, cached_scores(judge, cache, pairs))
    lexical = PairScores.of(pairs, LexicalJudge().score(pairs))
    draws = QuestionDraws(scored.question, config.seed)
    reports = {
        judge.provenance.name: estimates_by_part(pairs, scored, draws),
        "lexical": estimates_by_part(pairs, lexical, draws),
    }
    write_json(run.folder / "judge_report.json", reports)
    scored.save(run.folder / TEST_SCORES)
    mine = reports[judge.provenance.name]["all"]
    run.metrics |= mine
    if run.wandb is not None:
        for name, estimate in mine.items():
            run.wandb.summary[f"judge/test/{name}"] = estimate.value
    if isinstance(judge, TrainedJudge):
        before = scored._replace(scores=judge.calibration.undo(scored.scores))
        errors = {"before": draws.estimates(before), "after": mine}
        errors = {w: {m: e[m] for m in SHOWN_CALIBRATION} for w, e in errors.items()}
        _show_calibration(judge.calibration, errors, before, scored, run)
    return reports


def _show_calibration(
    calibration: Platt,
    errors: Mapping[str, Mapping[str, Estimate]],
    before: PairScores,
    after: PairScores,
    run: Run,
) -> None:
    """Write, show and log how the calibration changes the scores of the test pairs."""
    write_json(run.folder / "calibration.json", {"calibration": calibration.to_json(), **errors})
    figure = drawn(reliability_figure, before, after, run.folder / "reliability.png")
    show(judge_table(errors, f"calibration: {calibration.kind}", SHOWN_CALIBRATION))
    if run.wandb is not None:
        import wandb

        if figure is not None:
            run.wandb.log({"judge/reliability": wandb.Image(str(figure))})
        for when, found in errors.items():
            for name, estimate in found.items():
                run.wandb.summary[f"judge/test/{name}/{when}"] = estimate.value
