"""Watcher: choose the best point of a sweep on half of the questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.protocols import BoolArray, FloatArray
from deepprune.core.seeding import generator
from deepprune.evaluation.metrics import sweep_rows
from deepprune.evaluation.outcomes import Outcomes, OutcomeStore, Row, write_rows
from deepprune.evaluation.watcher import SweepPlan, Watcher
from deepprune.pruning.policies.consensus import Consensus
from deepprune.report.tables import show, sweep_table

CHOSEN = "chosen.jsonl"

Measure = Callable[[BoolArray], tuple[FloatArray, FloatArray]]
"""Accuracy relative to cons@N and net saving of W points on some questions, each ``(W,)``."""


class ChooseHalf(Watcher):
    """Chooses the cheapest point within ``within`` of cons@N, and reports it on unseen questions.

    The best of many points looks better on the questions it was chosen on than it is. So half of
    the questions, drawn by the seed, choose: of all points whose accuracy there is at most
    ``within`` below that of cons@N, the one with the highest net saving. The other half reports it:
    ``chosen.jsonl`` has its row there, and those of cons@k and of the baseline.

    Which point is chosen depends on the split: so the choice is repeated over ``splits`` random
    halves, and their mean is printed. A point that `DropDominated` gave up cannot be chosen; the
    half that reports has then taken part in what was given up.

    Args:
        within: Largest loss of accuracy against cons@N on the choosing half, a share of questions.
        splits: Random halves for the second figure.
        policies: Choose among these policies; ``None`` for all but consensus. Points of further
            judges (``sweep.judges``, often an oracle) are never chosen.
    """

    def __init__(
        self, within: float = 0.01, splits: int = 200, policies: Sequence[str] | None = None
    ) -> None:
        if not 0 <= within < 1:
            raise InputError(f"within must be a share of the questions in [0, 1), got {within}.")
        if splits < 1:
            raise InputError(f"splits must be at least 1 random half, got {splits}.")
        self.within, self.splits = within, splits
        self.policies = None if policies is None else set(policies)

    def on_sweep_start(self, plan: SweepPlan) -> None:
        """Refuse a sweep with too few questions or without the named policies."""
        if len(plan.questions) < 4:
            raise InputError(f"halves need at least 4 questions, got {len(plan.questions)}.")
        names = {point.policy.name for point in plan.points} - {"consensus"}
        if unknown := sorted((self.policies or set()) - names):
            raise InputError(
                f"no point of {unknown[0]!r} can be chosen: the sweep has "
                f"{', '.join(sorted(names))}."
            )

    def on_sweep_end(self, plan: SweepPlan, rows: Sequence[Row]) -> None:
        """Choose on one half and report on the other; then repeat the choice on random halves."""
        keys = [ref.key for ref in plan.questions]
        numbers = {name: i for i, name in enumerate(sorted({key[:2] for key in keys}))}
        question = np.array([numbers[key[:2]] for key in keys])

        def half(rng: np.random.Generator) -> BoolArray:
            return np.isin(question, rng.permutation(len(numbers))[: len(numbers) // 2])

        wanted = [
            number
            for number, row in enumerate(rows)
            if row.status == "ok"
            and row.policy != "consensus"
            and row.judge in (None, plan.judges[0])
            and (self.policies is None or row.policy in self.policies)
        ]
        store = OutcomeStore(plan.folder / "outcomes", plan.points)
        measure = _measure(Outcomes(store, plan.points, keys), wanted)
        seed = int(rows[0].facts["seed"])
        is_choosing = half(generator(seed, "half"))
        best = self._choose(measure, is_choosing)
        if best is None:
            print(f"no point is within {100 * self.within:g} points of cons@N on half of them")
            return
        curve = {i for i, r in enumerate(rows) if r.status == "ok" and r.policy == "consensus"}
        rival = {i for i, r in enumerate(rows) if r.status == "ok" and r.policy == plan.baseline}
        compared = sorted(curve | rival | {wanted[best]})
        others = [key for key, is_in in zip(keys, is_choosing, strict=True) if not is_in]
        kept = sweep_rows(
            Outcomes(store, plan.points, others).only(compared),
            seed=seed,
            margin=rows[0].facts["margin"],
            baseline=plan.baseline,
        )
        write_rows(plan.folder / CHOSEN, kept)
        shown = [kept[compared.index(i)] for i in sorted(curve | {wanted[best]})]
        n = len({key[:2] for key in others})
        show(sweep_table(shown, f"chosen on {len(numbers) // 2} questions, reported on {n} others"))
        rng = generator(seed, "halves")
        print(self._repeated(measure, [half(rng) for _ in range(self.splits)]))
        print(f"chosen: {plan.folder / CHOSEN}")

    def _choose(self, measure: Measure, questions: BoolArray) -> int | None:
        """Find the cheapest point within ``within`` of cons@N on these questions."""
        gain, saving = measure(questions)
        saving[gain < -self.within] = -np.inf
        return int(saving.argmax()) if saving.max(initial=-np.inf) > -np.inf else None

    def _repeated(self, measure: Measure, halves: Sequence[BoolArray]) -> str:
        """Average accuracy and saving of the points that each half chooses, on its other half."""
        chosen = [(self._choose(measure, half), half) for half in halves]
        found = [[m[i] for m in measure(~half)] for i, half in chosen if i is not None]
        if not found:
            return f"in none of {self.splits} random halves a point is within reach"
        gains, savings = 100 * np.array(found).T
        low, high = np.quantile(savings, [0.025, 0.975])
        return (
            f"over {len(savings)} random halves the chosen point's accuracy is "
            f"{np.mean(gains):+.2f} points from cons@N on the other half, its net saving "
            f"{np.mean(savings):.1f} % (95 % of the halves: {low:.1f} to {high:.1f} %)"
        )


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
