"""``deepprune evaluate``: pruning policies on recorded traces, with any judge."""

from __future__ import annotations

import json
from collections.abc import Sequence

from deepprune.commands.run import SCORES, Run, command_run, finished_run, log_inputs
from deepprune.commands.sweep import chosen_questions, headline, run_sweep
from deepprune.config.judges import with_further
from deepprune.config.plans import EvaluatePlan, Sweep
from deepprune.core.files import write_atomic
from deepprune.core.seeding import generator
from deepprune.core.types import QuestionRef, TracePair
from deepprune.data.pairs import build_pairs
from deepprune.evaluation.metrics import too_few_questions
from deepprune.evaluation.selection import unseen_questions
from deepprune.judge.score_cache import ScoreCache
from deepprune.report.tables import show, sweep_table


def evaluate(plan: EvaluatePlan) -> Run:
    """Run the sweep of ``conf/evaluate.yaml``; checks everything cheap before a judge loads."""
    sweep = plan.sweep
    inputs = {"judge": plan.judge.sha256, **sweep.inputs}
    if (finished := finished_run(plan.run, inputs)) is not None:
        return finished
    needs = {name: judge.needs for name, judge in sweep.judges.items()}
    chosen_questions(sweep, sweep.refs, {"of judge=": plan.judge.needs, **needs})
    with command_run(plan.run, inputs) as run:
        judge = plan.judge.load()
        judges = with_further({judge.provenance.name: judge}, sweep.judges)
        unseen = unseen_questions(sweep.refs, judges.values())
        if len(unseen) < len(sweep.refs):
            trained = [name for name, judge in judges.items() if judge.provenance.seen_questions]
            print(
                f"{len(sweep.refs) - len(unseen)} of {len(sweep.refs)} questions were used to "
                f"train {', '.join(trained)} and are skipped"
            )
        questions, n_traces = sweep.choose(unseen)
        band = judge.prepare(lambda: _sample(sweep, questions))
        if band:
            write_atomic(run.folder / "band.json", json.dumps(band))
            print(f"band of the cascade: {band['low']:.3f} to {band['high']:.3f}")
        with ScoreCache(run.folder / SCORES) as cache:
            log_inputs(run, sweep.store, judges.values())
            found = run_sweep(sweep, questions, n_traces, judges, run, cache)
        for rows in found:
            n = int(rows[0].facts["n_questions"])
            names = list(dict.fromkeys(row.judge for row in rows if row.judge)) or ["no judge"]
            show(sweep_table(rows, f"{', '.join(names)} on {n} questions of {sweep.traces}"))
            if (warning := too_few_questions(rows)) is not None:
                print(warning)
        headline(found, judge.provenance.name, run)
    return run


def _sample(sweep: Sweep, questions: Sequence[QuestionRef]) -> list[TracePair]:
    """Return pairs of up to 64 questions, up to 50 of each and every prefix rule."""
    order = generator(sweep.seed, "judge sample").permutation(len(questions))[:64]
    groups = [sweep.store.group(questions[i]) for i in sorted(order.tolist())]
    return [
        pair
        for group in groups
        for rule in sweep.prefixes
        for pair in build_pairs(group, rule, max_pairs=50, seed=sweep.seed)
    ]
