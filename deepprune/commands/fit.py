"""Train a judge through Lightning and export it, for ``train.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepprune.commands.run import is_rank_zero
from deepprune.config.instantiation import inputs_of
from deepprune.config.plans import Learner, TrainPlan
from deepprune.core.errors import InputError
from deepprune.data.pairs import same_share
from deepprune.data.splits import Splits

MAX_GROUP = 8
"""Candidates of a representative with ``data.group=auto``: 16 would save another 5 %."""


def fit(
    plan: TrainPlan, learner: Learner, splits: Splits, folder: Path, further_loggers: list[Any]
) -> None:
    """Fit, calibrate and export into ``folder/judge``; resume where an earlier start ended."""
    import pytorch_lightning as pl  # slow to import: bad options stop before

    from deepprune.callbacks.export_judge import ExportJudge
    from deepprune.callbacks.resume_point import LAST
    from deepprune.data.datamodule import JudgeDataModule
    from deepprune.judge.network.module import JudgeModule
    from deepprune.report.metrics_file import MetricsFile

    pl.seed_everything(plan.seed, verbose=False)
    architecture = learner.architecture
    with inputs_of("model"):
        encoding = architecture.encoding  # reads a tokenizer
    data = JudgeDataModule(
        splits,
        plan.rule,
        encoding,
        plan.sampler,
        batch_size=plan.batch_size,
        group=_group(plan, learner),
        pairs_per_question=plan.pairs_per_question,
        eval_pairs_per_question=plan.eval_pairs_per_question,
        only_unfinished=plan.only_unfinished,
        answer_style=plan.answer_style,
        seed=plan.seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    data.setup("fit")  # bad data stops here, before any weights are read
    train = data.encoded("train")
    facts = {"pairs": len(train), "truncated": int(train.inputs.is_truncated.sum())}
    if is_rank_zero() and facts["truncated"]:
        print(
            f"{facts['truncated']} of {facts['pairs']} training pairs are longer than the "
            f"max_length of {architecture.name}: it reads the end of their prefixes"
        )
    module = JudgeModule(
        lambda: architecture.build(train.inputs),
        plan.loss,
        learner.optimizer,
        learner.scheduler,
        warmup=learner.warmup,
        seed=plan.seed,
    )
    exporter = ExportJudge(
        folder / "judge",
        architecture,
        data,
        calibration=plan.calibration,
        same_share=same_share([*splits.train, *splits.val], plan.eval_pairs_per_question),
    )
    loggers = [MetricsFile(folder), *further_loggers]
    trainer = plan.make_trainer(folder, loggers, [exporter])
    for logger in loggers:
        logger.log_metrics({f"data/train_{name}": n for name, n in facts.items()}, step=0)
    last = folder / LAST
    if last.exists():
        print(f"resuming from {last}")
    try:
        trainer.fit(
            module,
            datamodule=data,
            ckpt_path=str(last) if last.exists() else None,
            weights_only=True,
        )
    except SystemExit as error:  # Lightning's answer to an interrupt
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _group(plan: TrainPlan, learner: Learner) -> int:
    """Return the candidates of a representative in training.

    Raises:
        InputError: If some are asked for and the judge of ``model=`` has no use for them.
    """
    if learner.architecture.shares_heads:
        divisors = (n for n in range(1, MAX_GROUP + 1) if plan.batch_size % n == 0)
        return plan.group or max(divisors)
    others = (each.architecture.shares_heads for each in plan.beside.values())
    if (plan.group or 1) > 1 and learner is plan.learner and not any(others):
        raise InputError(
            f"data.group must be auto or 1 for {learner.architecture.name}, got {plan.group}: only "
            "a causal model with full attention and attention=sdpa reads a representative once."
        )
    return 1
