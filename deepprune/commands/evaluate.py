"""``deepprune evaluate``: pruning policies on recorded traces, with any judge."""

from __future__ import annotations

import json

from omegaconf import DictConfig

from deepprune.commands.run import SCORES, Run, command_run, finished_run
from deepprune.commands.sweep import (
    check_parts,
    headline,
    run_sweep,
    say_left_out,
    sweep_points,
)
from deepprune.config import build
from deepprune.config.judges import all_judges, further_judges
from deepprune.core.files import write_atomic
from deepprune.evaluation.selection import unseen_questions
from deepprune.judge.score_cache import ScoreCache
from deepprune.report.tables import show, sweep_table


def evaluate(config: DictConfig) -> Run:
    """Run the sweep of ``conf/evaluate.yaml``; checks everything cheap before a judge loads."""
    sweep = build.sweep(config)
    store = build.store(config)
    further = further_judges(list(config.sweep.judges), config.seed)
    inputs = {"traces": store.content_hash, "judge": build.judge_hash(config)}
    inputs |= {name: judge.sha256 for name, judge in further.items() if judge.sha256}
    if (finished := finished_run(config, inputs)) is not None:
        return finished
    refs = build.refs(config, store)
    questions, n_traces = build.questions(config, refs)
    needs = {"of judge=": build.judge_needs(config)}
    needs |= {name: judge.needs for name, judge in further.items()}
    say_left_out(sweep, sweep_points(sweep, store, questions, n_traces, needs))
    check_parts(config, questions)
    with command_run(config, "evaluate", inputs) as run:
        judge = build.judge(config)
        judges = all_judges(judge, further)
        unseen = unseen_questions(refs, judges.values())
        if len(unseen) < len(refs):
            trained = [name for name, judge in judges.items() if judge.provenance.seen_questions]
            print(
                f"{len(refs) - len(unseen)} of {len(refs)} questions were used to train "
                f"{', '.join(trained)} and are skipped"
            )
        questions, n_traces = build.questions(config, unseen)
        chosen = judge.prepare(lambda: build.judge_sample(config, store, questions, sweep.prefixes))
        if chosen:
            write_atomic(run.folder / "band.json", json.dumps(chosen))
            print(f"band of the cascade: {chosen['low']:.3f} to {chosen['high']:.3f}")
        with ScoreCache(run.folder / SCORES) as cache:
            rows = run_sweep(config, sweep, questions, n_traces, store, judges, run, cache)
        show(sweep_table(rows, f"{', '.join(judges)} on {config.traces}"))
        headline(rows, run)
    return run
