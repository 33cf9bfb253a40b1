"""The rows of a sweep from hand-made outcomes."""

import json
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import multinomial
from sweeps import flat

from deepprune.core.errors import InputError
from deepprune.core.protocols import Need
from deepprune.core.statistics import Curve, Estimate
from deepprune.evaluation import metrics
from deepprune.evaluation.grid import consensus_sizes
from deepprune.evaluation.metrics import too_few_questions
from deepprune.evaluation.outcomes import Row
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.consensus import Consensus

COUNTS = ("tokens_finished", "tokens_pruned", "tokens_forced", "tokens_sequential", "peak_traces")
JUDGE = ("judge_calls", "judge_tokens", "judge_flops")


@dataclass(frozen=True)
class Pruner:
    needs: ClassVar = frozenset({Need.JUDGE})
    threshold: float = 0.5
    name: str = "pruner"


@dataclass(frozen=True)
class Stopper:
    needs: ClassVar = frozenset()
    certainty: float = 0.9
    name: str = "stopper"


@dataclass(frozen=True)
class GridPoint:
    policy: object
    n_traces: int = 8
    judge: str | None = None

    @property
    def axes(self):
        return {k: v for k, v in asdict(self.policy).items() if k != "name"}


@dataclass
class Table:
    """Outcomes: a point's fields are given as ``(Q, R)`` or a constant; the rest is 0."""

    points: list
    columns: list
    n: tuple
    questions: list = None
    failures: dict = field(default_factory=dict)
    dropped: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def __post_init__(self):
        self.questions = self.questions or [("toy", f"q{i}", "tiny") for i in range(self.n[0])]
        self.columns = [dict(c) for c in self.columns]
        self.tokens_prompt = np.full(self.n[0], 11)

    def only(self, numbers):
        """The same for some of the points; both note in one list what they are asked for."""
        points, columns = ([part[i] for i in numbers] for part in (self.points, self.columns))
        return Table(points, columns, self.n, self.questions, asked=self.asked)

    def __getitem__(self, name):
        self.asked.append(name)
        dtype = {"is_correct": bool, "any_correct": bool}.get(
            name, int if name in (*COUNTS, *JUDGE[:2]) else float
        )
        values = [np.broadcast_to(c.get(name, 0), self.n) for c in self.columns]
        return np.stack([np.zeros(self.n), *values], axis=2)[..., 1:].astype(dtype)


def sweep_rows(outcomes, **settings):
    return flat(metrics.sweep_rows(outcomes, **settings))


def right(n_right, n=10, resamples=1):
    """The first ``n_right`` of n questions."""
    return np.tile((np.arange(n) < n_right)[:, None], (1, resamples))


def consensus(n_right, tokens, n=10):
    return {
        "is_correct": right(n_right, n),
        "tokens_finished": tokens,
        "generator_flops": 10.0 * tokens,
        "cost": np.nan,
    }


def sweep(*others, n=10, **changes):
    """cons@1, 4, 8 with accuracies .5, .7, .8 at 100, 400, 800 tokens, then ``others``."""
    curve = [consensus(round(a * n), t, n) for a, t in ((0.5, 100), (0.7, 400), (0.8, 800))]
    points = [GridPoint(Consensus(k)) for k in (1, 4, 8)]
    return Table(
        [*points, *(GridPoint(*o[:-1]) for o in others)], [*curve, *(o[-1] for o in others)],
        (n, 1), **changes,
    )  # fmt: skip


PRUNED = {
    "is_correct": right(7),
    "any_correct": right(9),
    "tokens_finished": 150,
    "tokens_pruned": 40,
    "tokens_forced": 10,
    "tokens_sequential": 60,
    "peak_traces": 8,
    "judge_calls": 5,
    "judge_tokens": 70,
    "generator_flops": 2000.0,
    "judge_flops": 1000.0,
    "engine_seconds": 3.0,
    "cost": 0.25,
}


def test_a_row_by_hand():
    """200 tokens of 800, .7 of .8; the curve has .5 + 1/3 * .2 at 200 tokens, k = 2.

    The judge's 1000 FLOPs are 100 tokens at 10 FLOPs each: the curve has .5 + 2/3 * .2 at 300.
    The curve reaches .7 at 400 tokens: 200 / 400.
    """
    row = sweep_rows(sweep((Pruner(), 8, "j", PRUNED)), seed=0)[-1]
    assert row["accuracy"].value == 0.7
    assert row["pass_any"].value == 0.9
    assert row["tokens"] == 200
    assert row["matched_k"] == pytest.approx(2)
    assert row["accuracy_vs_cons_n"].value == pytest.approx(-0.1)
    assert row["accuracy_vs_matched_cons"].value == pytest.approx(0.7 - 0.5 - 0.2 / 3)
    assert row["accuracy_vs_matched_cons_net"].value == pytest.approx(0.7 - 0.5 - 0.4 / 3)
    assert row["tokens_vs_matched_accuracy"].value == pytest.approx(0.5)
    assert row["token_saving"] == Estimate(0.75, 0.75, 0.75)
    assert row["net_saving"].value == pytest.approx((8000 - 2000 - 1000) / 8000)
    assert row["p_mcnemar"] == row["p_mcnemar_holm"] == 1  # b = 1, c = 0
    assert row["is_non_inferior"] is False
    assert row["accuracy_vs_hull"] == row["accuracy_vs_matched_cons"]  # cons@1, 4, 8 are concave
    assert row["accuracy_se_orders"] is None  # of one order
    assert row["cost"] == 0.25
    assert [row[name] for name in (*COUNTS, *JUDGE)] == [150, 40, 10, 60, 8, 5, 70, 1000]
    assert (row["judge"], row["threshold"], row["tokens_prompt"]) == ("j", 0.5, 11)
    assert (row["n_questions"], row["n_traces"], row["resamples"]) == (10, 8, 1)
    assert (row["status"], row["reason"]) == ("ok", None)


def test_questions_needed_come_from_the_differences():
    """Nine differences of 0 and one of -1: variance .1.

    n is (h + sqrt(h^2 + 5.1826 m^2)) / m^2, h = m + 6.1826 * .05: .31913 at m = .01, .40913 at .1.
    """
    row = sweep_rows(sweep((Pruner(), PRUNED)), seed=0)[-1]
    assert row["n_questions_needed"] == 6391
    assert row["margin"] == 0.01
    row = sweep_rows(sweep((Pruner(), PRUNED)), seed=0, margin=0.1)[-1]
    assert row["n_questions_needed"] == 88


def test_the_curve_lies_on_itself_and_cons_n_is_not_compared_with_itself():
    rows = sweep_rows(sweep(), seed=0)
    zero = Estimate(0.0, 0.0, 0.0)
    for row, k in zip(rows, (1, 4, 8), strict=True):
        assert row["accuracy_vs_matched_cons"] == zero
        assert row["accuracy_vs_matched_cons_net"] == zero
        assert row["tokens_vs_matched_accuracy"].value == pytest.approx(1)
        assert row["matched_k"] == k
        assert row["judge"] is None
        assert row["cost"] is None
        assert row["p_mcnemar_holm"] is None
    assert rows[-1]["accuracy_vs_cons_n"] == rows[-1]["token_saving"] == zero
    assert rows[-1]["p_mcnemar"] is rows[-1]["is_non_inferior"] is None
    assert rows[-1]["n_questions_needed"] is None
    assert rows[0]["p_mcnemar"] == 0.25  # b = 3, c = 0


def test_the_hull_is_that_of_consensus_and_adaptive_consistency():
    """Adaptive consistency has .8 at 250 tokens: cons@4 lies .1 below, others on the way to it.

    At 200 tokens the hull has .5 + 2/3 * .3, and the pruner's .7 is on it.
    """
    rows = sweep_rows(sweep((AdaptiveConsistency(), consensus(8, 250)), (Pruner(), PRUNED)), seed=0)
    found = [row["accuracy_vs_hull"].value for row in rows]
    assert found == pytest.approx([0, -0.1, 0, 0, 0.0])
    assert rows[-1]["accuracy_vs_matched_cons"].value == pytest.approx(0.7 - 0.5 - 0.2 / 3)


def cons_accuracy(k, chances):
    """Exact accuracy of cons@k over three answers, the first of them right; ties are shared."""
    first, second = np.triu_indices(k + 1)
    votes = np.stack([first, second - first, k - second], axis=1)
    leads = votes == votes.max(axis=1, keepdims=True)
    return (multinomial.pmf(votes, k, chances) * leads[:, 0] / leads.sum(axis=1)).sum()


def test_cons_at_any_k_gains_nothing_on_the_curve():
    """Up to .05 points between the k of the curve, 0 at them.

    It was .25 points at k = 10 on a curve of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... alone.
    """
    chances = (0.5, 0.3, 0.2), (0.4, 0.35, 0.25), (0.3, 0.4, 0.3), (0.7, 0.2, 0.1)
    every = np.arange(1, 65)
    accuracy = np.array([np.mean([cons_accuracy(k, c) for c in chances]) for k in every])

    def gains(ks):
        curve = Curve(np.array([ks], dtype=float), accuracy[None, np.array(ks) - 1])
        return 100 * (accuracy - curve.accuracy_at(every[None].astype(float))[0])

    sizes = consensus_sizes(64)
    assert sizes == [*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64]
    found = gains(sizes)
    assert found[np.array(sizes) - 1].tolist() == [0.0] * len(sizes)
    assert np.abs(found).max() < 0.05
    assert gains([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])[9] == pytest.approx(0.246, abs=0.001)


def test_without_a_judge_net_and_gross_are_one():
    stopped = PRUNED | {"judge_flops": 0.0, "judge_calls": 0, "judge_tokens": 0}
    row = sweep_rows(sweep((Stopper(), stopped)), seed=0)[-1]
    assert row["judge"] is None
    assert row["accuracy_vs_matched_cons_net"] == row["accuracy_vs_matched_cons"]


def test_beyond_the_ends_of_the_curve():
    """900 tokens are compared with cons@8; .9 is never reached; .4 is met by cons@1's tokens."""
    dear = PRUNED | {"is_correct": right(9), "tokens_finished": 850}
    cheap = PRUNED | {"is_correct": right(4), "tokens_finished": 0}
    dear, cheap = sweep_rows(sweep((Pruner(), dear), (Pruner(0.6), cheap)), seed=0)[-2:]
    assert dear["accuracy_vs_matched_cons"] == dear["accuracy_vs_cons_n"]
    assert dear["tokens_vs_matched_accuracy"] is None
    assert dear["matched_k"] == 8
    assert cheap["accuracy_vs_matched_cons"].value == pytest.approx(0.4 - 0.5)
    assert cheap["tokens_vs_matched_accuracy"].value == pytest.approx(50 / 100)
    assert cheap["matched_k"] == 1


def test_the_reference_of_a_row_is_cons_at_its_own_n():
    """N = 4: cons@4 has .7 at 400 tokens, and the point the same accuracy at 200."""
    row = sweep_rows(sweep((Pruner(), 4, PRUNED)), seed=0)[-1]
    assert row["n_traces"] == 4
    assert row["accuracy_vs_cons_n"] == Estimate(0.0, 0.0, 0.0)
    assert row["token_saving"].value == 0.5
    assert row["net_saving"].value == pytest.approx((4000 - 2000 - 1000) / 4000)


def test_another_baseline_is_matched_by_its_frontier():
    """Stoppers at (100, .4), (300, .8) and, beaten, (350, .6): .6 at 200 tokens, and .7 - .6."""
    stoppers = [
        (Stopper(c), consensus(n_right, tokens))
        for c, n_right, tokens in ((0.8, 4, 100), (0.9, 8, 300), (0.95, 6, 350))
    ]
    outcomes = sweep(*stoppers, (Pruner(), PRUNED))
    rows = sweep_rows(outcomes, seed=0, baseline="stopper")
    assert rows[-1]["accuracy_vs_matched_baseline"].value == pytest.approx(0.1)
    assert rows[4]["accuracy_vs_matched_baseline"].value == 0
    assert [r["p_mcnemar_holm"] for r in rows[:-1]] == [None] * 6
    assert "accuracy_vs_matched_baseline" not in sweep_rows(outcomes, seed=0)[-1]
    with pytest.raises(InputError, match=r"'stoper' is not in the sweep, it has \['consensus'"):
        sweep_rows(outcomes, seed=0, baseline="stoper")
    outcomes.failures = {3: "no", 4: "no", 5: "no"}
    rows = sweep_rows(outcomes, seed=0, baseline="stopper")
    assert rows[-1]["accuracy_vs_matched_baseline"] is None


def test_mcnemar_looks_at_one_order_and_holm_at_the_sweep():
    """Against .8 of cons@8: 0 right is b = 8, c = 0, p = 2 / 2^8; 2 right b = 6, p = 2 / 2^6.

    Holm over these two and a dropped point: 3 / 128 and 2 / 32.
    """
    none, two = PRUNED | {"is_correct": right(0)}, PRUNED | {"is_correct": right(2)}
    outcomes = sweep(
        (Pruner(0.1), two), (Pruner(0.2), none), (Pruner(0.3), PRUNED), dropped={5: "beaten"}
    )
    rows = sweep_rows(outcomes, seed=0)
    assert [r["p_mcnemar"] for r in rows[3:5]] == pytest.approx([1 / 32, 1 / 128])
    assert [r["p_mcnemar_holm"] for r in rows[3:5]] == pytest.approx([2 / 32, 3 / 128])
    assert (rows[5]["status"], rows[5]["reason"]) == ("dropped", "beaten")
    first_right = np.hstack([right(8), right(0)])
    for column, flags in zip(outcomes.columns, [first_right] * 6, strict=True):
        column["is_correct"] = flags
    outcomes.n = (10, 2)
    assert sweep_rows(outcomes, seed=0)[3]["p_mcnemar"] == 1


def test_points_that_were_not_measured_say_why_and_carry_nothing():
    outcomes = sweep(
        (Pruner(0.1), PRUNED), (Pruner(0.2), PRUNED | {"tokens_finished": 10**6}),
        (Pruner(0.3), 4, PRUNED), failures={3: "ValueError: no"}, dropped={4: "beaten"},
    )  # fmt: skip
    whole = sweep_rows(outcomes, seed=0)
    assert [r["status"] for r in whole] == ["ok", "ok", "ok", "failed", "dropped", "ok"]
    assert [r["reason"] for r in whole[3:5]] == ["ValueError: no", "beaten"]
    for row in whole[3:5]:
        assert "accuracy" not in row
        assert row["n_questions"] == 10
    alone = sweep_rows(sweep((Pruner(0.3), 4, PRUNED)), seed=0)[-1]
    assert {k: v for k, v in whole[5].items() if k != "p_mcnemar_holm"} == {
        k: v for k, v in alone.items() if k != "p_mcnemar_holm"
    }
    outcomes.failures = {1: "ValueError: no"}  # cons@4
    rows = sweep_rows(outcomes, seed=0)
    assert rows[5]["status"] == "failed"
    assert rows[5]["reason"].startswith("cons@4 was not measured")
    assert rows[3]["status"] == "ok"
    assert rows[3]["matched_k"] == pytest.approx(1 + 7 / 7)  # between cons@1 and cons@8
    outcomes.failures = {2: "ValueError: no"}  # cons@8
    rows = sweep_rows(outcomes, seed=0)
    assert [r["status"] for r in rows] == ["failed"] * 4 + ["dropped", "failed"]


def test_same_inputs_same_bytes_and_each_field_once():
    rng = np.random.default_rng(0)
    points = [
        (Pruner(i / 10), PRUNED | {"is_correct": rng.random((10, 1)) < 0.7}) for i in range(9)
    ]
    first, second = sweep(*points), sweep(*points)
    rows = sweep_rows(first, seed=3)
    assert json.dumps(rows, allow_nan=False) == json.dumps(sweep_rows(second, seed=3))
    assert rows != sweep_rows(second, seed=4)
    assert len(first.asked) == len(set(first.asked)) == 15


def test_unknown_prices_are_none_and_not_nan():
    nameless = PRUNED | {"generator_flops": np.nan, "engine_seconds": np.nan}
    row = sweep_rows(sweep((Pruner(), nameless)), seed=0)[-1]
    assert row["generator_flops"] is row["net_saving"] is row["engine_seconds"] is None
    json.dumps(row, allow_nan=False)


def test_a_row_names_the_judge_of_its_point():
    outcomes = sweep((Pruner(), 8, "j", PRUNED), (Pruner(), 8, "coin", PRUNED), (Stopper(), PRUNED))
    assert [r["judge"] for r in sweep_rows(outcomes, seed=0)[3:]] == ["j", "coin", None]


def test_policies_for_which_the_questions_are_too_few_are_named():
    def row(policy, needed, judge=None):
        return Row(
            policy, {"judge": judge}, {"n_questions": 300, "margin": 0.01}, {},
            {"n_questions_needed": needed},
        )  # fmt: skip

    rows = [row("race", 1100), row("race", 400), row("esc", 299), row("esc", 900)]
    rows += [row("deepprune", 13079, "lexical"), row("consensus", 5000), row("consensus", None)]
    assert too_few_questions(rows) == (
        "300 questions are too few to show an accuracy within sweep.margin=0.01 of cons@N; needed "
        "are: race 400 to 1,100, deepprune (lexical) 13,079."
    )
    assert too_few_questions(rows[2:4]) is too_few_questions([]) is None
