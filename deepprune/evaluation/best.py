"""The best point of a sweep: chosen on half of the questions, reported on the other half.

The best of many points looks better on the questions that it was chosen on than it is. So half of
the questions, drawn by the seed, choose: of the points whose accuracy there is at most the margin
below that of cons@N, the one with the highest net saving. The other half reports it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.files import read_lines
from deepprune.core.protocols import BoolArray, FloatArray
from deepprune.core.seeding import generator
from deepprune.core.statistics import Estimate
from deepprune.evaluation.grid import Point
from deepprune.evaluation.metrics import CONSENSUS, sweep_rows
from deepprune.evaluation.outcomes import Outcomes, OutcomeStore, QuestionKey, Row
from deepprune.pruning.policies.consensus import Consensus

CHOSEN = "chosen.jsonl"
HALVES = 200
"""Random halves for which the choice is repeated: which point is chosen depends on the half."""

MIN_QUESTIONS = 4

Measure = Callable[[BoolArray], tuple[FloatArray, FloatArray]]
"""Accuracy relative to cons@N and net saving of W points on some questions, each ``(W,)``."""


def best_rows(
    store: OutcomeStore,
    points: Sequence[Point],
    questions: Sequence[QuestionKey],
    rows: Sequence[Row],
    *,
    judge: str | None,
    baseline: str,
) -> list[Row]:
    """Return the row of the chosen point on the reporting half, then cons@k and the baseline there.

    The first row also has ``n_questions_choosing``, and means over `HALVES` random halves, with the
    range of 95 % of them: ``net_saving_halves`` and ``accuracy_vs_cons_n_halves``. A point that was
    dropped cannot be chosen; the half that reports has then taken part in what was dropped.

    Args:
        store: The outcomes of all questions.
        points: The grid.
        questions: The questions of the sweep.
        rows: Its rows, one per point.
        judge: Choose among policies that ask this judge or none: others are often oracles.
        baseline: See `metrics.sweep_rows`.

    Returns:
        Nothing if there are fewer than `MIN_QUESTIONS` questions, or no point is near cons@N.
    """
    numbers = {name: i for i, name in enumerate(sorted({key[:2] for key in questions}))}
    ok = [i for i, row in enumerate(rows) if row.status == "ok"]
    allowed = [i for i in ok if rows[i].policy != CONSENSUS and rows[i].judge in (None, judge)]
    if len(numbers) < MIN_QUESTIONS or not allowed:
        return []
    question = np.array([numbers[key[:2]] for key in questions])

    def half(rng: np.random.Generator) -> BoolArray:
        return np.isin(question, rng.permutation(len(numbers))[: len(numbers) // 2])

    facts = rows[0].facts
    margin, seed = facts["margin"], int(facts["seed"])
    measure = _measure(Outcomes(store, points, questions), allowed)
    is_choosing = half(generator(seed, "half"))
    best = _choose(measure, is_choosing, margin)
    if best is None:
        return []
    beside = [i for i in ok if rows[i].policy in (CONSENSUS, baseline) and i != allowed[best]]
    compared = [allowed[best], *beside]
    others = [key for key, is_in in zip(questions, is_choosing, strict=True) if not is_in]
    kept = sweep_rows(
        Outcomes(store, points, others).only(compared),
        seed=seed,
        margin=margin,
        baseline=baseline if any(rows[i].policy == baseline for i in compared) else CONSENSUS,
        engine_steps=facts["engine_steps"],
    )
    kept[0].counts["n_questions_choosing"] = float(len(numbers) // 2)
    rng = generator(seed, "halves")
    halves = [half(rng) for _ in range(HALVES)]
    chosen = [(_choose(measure, each, margin), each) for each in halves]
    found = np.array([[m[i] for m in measure(~each)] for i, each in chosen if i is not None])
    for name, values in zip(("accuracy_vs_cons_n", "net_saving"), found.T, strict=False):
        low, high = np.quantile(values, [0.025, 0.975])
        kept[0].metrics[f"{name}_halves"] = Estimate(float(values.mean()), float(low), float(high))
    return kept


def read_best(folder: Path) -> dict[str, Any]:
    """Read the columns of the best point on the reporting half; empty if there is none."""
    lines = read_lines(folder / CHOSEN)
    return lines[0] if lines else {}


def best_number(best: Mapping[str, Any], rows: Sequence[Row]) -> int:
    """Return the number of the best point among the rows of its sweep."""
    axes = [{**json.loads(json.dumps(row.axes)), "policy": row.policy} for row in rows]
    return next(i for i, each in enumerate(axes) if each.items() <= best.items())


def _choose(measure: Measure, questions: BoolArray, within: float) -> int | None:
    """Find the cheapest point at most ``within`` below cons@N on these questions."""
    gain, saving = measure(questions)
    is_near = (gain >= -within) & ~np.isnan(saving)  # NaN: a bill that is not known
    return int(np.where(is_near, saving, -np.inf).argmax()) if is_near.any() else None


def _measure(outcomes: Outcomes, wanted: Sequence[int]) -> Measure:
    """Return a function of questions that measures the points ``wanted``."""
    points = outcomes.points
    full = {p.policy.k: i for i, p in enumerate(points) if isinstance(p.policy, Consensus)}
    against = [full[points[number].n_traces] for number in wanted]
    accuracy = outcomes["is_correct"].mean(1)
    flops = (outcomes["generator_flops"] + outcomes["judge_flops"]).mean(1)
    gain = accuracy[:, wanted] - accuracy[:, against]  # (Q, W)
    spent, of_full = flops[:, wanted], flops[:, against]

    def measure(questions: BoolArray) -> tuple[FloatArray, FloatArray]:
        saving = 1 - spent[questions].sum(0) / of_full[questions].sum(0)
        return gain[questions].mean(0), saving

    return measure
