"""The pruning sweep, as both commands run it."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from deepprune.commands.run import Run
from deepprune.config import build
from deepprune.evaluation.callback import EvaluatorCallback, SweepResult
from deepprune.evaluation.evaluator import Evaluator
from deepprune.evaluation.metrics import ABOVE_CONSENSUS, too_few_questions
from deepprune.evaluation.results import Row
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache
from deepprune.report.tables import describe
from deepprune.types import QuestionTraces


def run_sweep(
    config: DictConfig,
    sweep: build.Sweep,
    questions: Sequence[QuestionTraces],
    n_traces: int,
    judge: Judge,
    run: Run,
    cache: ScoreCache,
) -> SweepResult:
    """Evaluate, with the configured callbacks and W&B watching, into the run's folder."""
    callbacks: list[EvaluatorCallback] = build.sweep_callbacks(config)
    if run.wandb is not None:
        from deepprune.callbacks.sweep_wandb import SweepWandb

        callbacks.append(SweepWandb(run.wandb))
    engine = build.engine(config, questions)
    try:
        evaluator = Evaluator(
            sweep.points(n_traces),
            n_traces=n_traces,
            resamples=sweep.resamples,
            seed=sweep.seed,
            generators=build.generators(config, questions),
            folder=run.folder,
            cache=cache,
            callbacks=callbacks,
        )
        result = evaluator.run(questions, engine, judge)
    finally:
        engine.close()
    run.results_path = result.results_path
    failed = [r for r in result.rows if r["status"] != "ok"]
    if failed:
        run.status = "failed"
        print(f"{len(failed)} of {len(result.rows)} points failed: {failed[0]['reason']}")
    if (warning := too_few_questions(result.rows)) is not None:
        print(warning)
    return result


def headline(rows: Sequence[Row], run: Run) -> None:
    """Keep the first policy's middle point for the comparison of a multirun's runs."""
    measured = [r for r in rows if r["policy"] != "consensus" and r["status"] == "ok"]
    points = [r for r in measured if r.get("finish") == measured[0].get("finish")]
    points = [r for r in points if r["policy"] == measured[0]["policy"]]
    if points:
        row = points[len(points) // 2]
        names = ("accuracy", ABOVE_CONSENSUS, "token_saving", "net_saving")
        run.metrics |= {name: row[name] for name in names}
        run.point = describe(row)
