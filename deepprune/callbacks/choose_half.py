"""Watcher: the best point of a sweep, chosen on half of the questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.protocols import BoolArray, FloatArray
from deepprune.core.seeding import generator
from deepprune.evaluation.metrics import sweep_rows
from deepprune.evaluation.outcomes import Outcomes, OutcomeStore, QuestionKey, write_rows
from deepprune.evaluation.watcher import SweepPlan, SweepResult, Watcher
from deepprune.pruning.policies.consensus import Consensus
from deepprune.report.tables import show, sweep_table

CHOSEN = "chosen.jsonl"


class ChooseHalf(Watcher):
    """Chooses the cheapest point within ``within`` of cons@N, and reports it on unseen questions.

    The best of many points looks better on the questions it was chosen on than it is. So half of
    the questions, drawn by the seed, choose: of all points whose accuracy there is at most
    ``within`` below that of cons@N, the one with the highest net saving. The other half reports it:
    ``chosen.jsonl`` has its row there, and those of cons@k and of the baseline.

    Which point is chosen depends on the split: so the choice is repeated over ``splits`` random
    halves, and their mean is printed. A point that `DropDominated` gave up cannot be chosen; the
    half that reports has then had its say in what was given up.

    Args:
        within: How far below cons@N a point may lie on the choosing half, a share of questions.
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

    def on_sweep_end(self, result: SweepResult) -> None:
        """Choose, report, write."""
        plan, rows = result.plan, result.rows
        keys = [ref.key for ref in plan.questions]
        names = sorted({key[:2] for key in keys})
        wanted = [
            number
            for number, row in enumerate(rows)
            if row.status == "ok"
            and row.policy != "consensus"
            and row.judge in (None, plan.judges[0])
            and (self.policies is None or row.policy in self.policies)
        ]
        store = OutcomeStore(plan.folder / "outcomes", plan.points)
        table = _Means(Outcomes(store, plan.points, keys), wanted)
        seed = int(rows[0].facts["seed"])
        drawn = generator(seed, "half").permutation(len(names))
        choosing = {names[i] for i in drawn[: len(names) // 2]}
        is_choosing = np.array([key[:2] in choosing for key in keys])
        number = table.choose(is_choosing, self.within)
        if number is None:
            print(f"no point is within {100 * self.within:g} points of cons@N on half of them")
            return
        others = [key for key, is_in in zip(keys, is_choosing, strict=True) if not is_in]
        compared = [
            i
            for i, row in enumerate(rows)
            if i == number or (row.status == "ok" and row.policy in ("consensus", plan.baseline))
        ]
        report = Outcomes(store, plan.points, others).only(compared)
        kept = sweep_rows(
            report,
            seed=seed,
            margin=rows[0].facts["margin"],
            baseline=plan.baseline,
        )
        write_rows(plan.folder / CHOSEN, kept)
        shown = [
            row
            for i, row in zip(compared, kept, strict=True)
            if i == number or row.policy == "consensus"
        ]
        n = len({key[:2] for key in others})
        show(sweep_table(shown, f"chosen on {len(choosing)} questions, reported on {n} others"))
        print(self._repeated(table, names, keys, seed))
        print(f"chosen: {plan.folder / CHOSEN}")

    def _repeated(
        self,
        table: _Means,
        names: Sequence[tuple[str, str]],
        keys: Sequence[QuestionKey],
        seed: int,
    ) -> str:
        rng = generator(seed, "halves")
        gains, savings = [], []
        for _ in range(self.splits):
            choosing = {names[i] for i in rng.permutation(len(names))[: len(names) // 2]}
            is_choosing = np.array([key[:2] in choosing for key in keys])
            number = table.choose(is_choosing, self.within)
            if number is not None:
                gain, saving = table.report(number, ~is_choosing)
                gains.append(100 * gain)
                savings.append(100 * saving)
        if not savings:
            return f"in none of {self.splits} random halves a point is within reach"
        low, high = np.quantile(savings, [0.025, 0.975])
        return (
            f"over {len(savings)} random halves the chosen point's accuracy is "
            f"{np.mean(gains):+.2f} points from cons@N on the other half, its net saving "
            f"{np.mean(savings):.1f} % (95 % of the halves: {low:.1f} to {high:.1f} %)"
        )


class _Means:
    """Accuracy and net FLOPs per question of the points that can be chosen, and of cons@N."""

    def __init__(self, outcomes: Outcomes, wanted: Sequence[int]) -> None:
        points = outcomes.points
        full = {
            point.policy.k: number
            for number, point in enumerate(points)
            if isinstance(point.policy, Consensus)
        }
        against = [full[points[number].n_traces] for number in wanted]
        accuracy = outcomes["is_correct"].mean(1)
        flops = (outcomes["generator_flops"] + outcomes["judge_flops"]).mean(1)
        self._wanted = list(wanted)
        self._gain = accuracy[:, wanted] - accuracy[:, against]  # (Q, W)
        self._flops, self._full = flops[:, wanted], flops[:, against]

    def choose(self, questions: BoolArray, within: float) -> int | None:
        """The number of the cheapest point within ``within`` of cons@N on these questions."""
        if not self._wanted:
            return None
        gain, saving = self._at(questions)
        saving[gain < -within] = -np.inf
        best = int(saving.argmax())
        return self._wanted[best] if saving[best] > -np.inf else None

    def report(self, number: int, questions: BoolArray) -> tuple[float, float]:
        """A point's accuracy relative to cons@N and its net saving, on these questions."""
        gain, saving = self._at(questions)
        place = self._wanted.index(number)
        return float(gain[place]), float(saving[place])

    def _at(self, questions: BoolArray) -> tuple[FloatArray, FloatArray]:
        gain = self._gain[questions].mean(0)
        return gain, 1 - self._flops[questions].sum(0) / self._full[questions].sum(0)
