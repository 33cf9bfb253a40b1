"""Runs done as arrays make the decisions that the controller makes, run by run."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from builders import group

from deepprune.core.step_times import StepTimes
from deepprune.core.types import Prefix, QuestionRef
from deepprune.data.prefixes import FirstTokens
from deepprune.evaluation.grid import Point
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.outcomes import FIELDS
from deepprune.evaluation.runner import QuestionRunner, Task
from deepprune.evaluation.scores import QuestionScores
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.judge.cascade import CascadeJudge
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.policies.esc import ESC
from deepprune.pruning.policies.race import Race
from deepprune.pruning.policies.short_m import ShortM
from deepprune.pruning.replay import ReplayEngine


class Noisy(Judge):
    """A directed judge of no skill, which reads pairs and prefixes at a price."""

    @property
    def provenance(self):
        return JudgeProvenance("noisy", None)

    def score(self, pairs):
        return np.array([self.value(p.first.text + "|" + p.second.text) for p in pairs])

    @staticmethod
    def value(text):
        return zlib.crc32(text.encode()) / 2**32

    def pair_prices(self, pairs):
        tokens = np.array([p.first.n_tokens + p.second.n_tokens for p in pairs], dtype=float)
        return Prices(tokens, 3 * tokens)

    def prefix_prices(self, prefixes):
        tokens = np.array([p.n_tokens for p in prefixes], dtype=float)
        return Prices(tokens, 5 * tokens)


class Sociable(Noisy):
    """A judge whose scores depend on who else is there."""

    reads_peers = True

    def score(self, pairs):
        return np.array([self.value("|".join(self.seen(p))) for p in pairs])

    @staticmethod
    def seen(pair):
        assert pair.first.peers is pair.second.peers
        return [
            pair.first.text,
            pair.second.text,
            *sorted(p.text for p in pair.first.peers.prefixes),
        ]


class Named(Sociable):
    """One that a cascade might remember by the texts of a pair."""

    @property
    def provenance(self):
        return JudgeProvenance("named", "named v1")


@pytest.mark.parametrize(
    "judge", [Noisy(), Sociable(), CascadeJudge(Named(), Noisy(), low=0.3, high=0.7)]
)
@pytest.mark.parametrize("clustering", ["greedy", "posterior", "average"])
@pytest.mark.parametrize(
    "rule",
    [
        {"max_finishers": 2},
        {"finish": "representatives"},
        {"finish": "representatives", "vote": "size"},
        {"finish": "representatives", "vote": "posterior", "max_clusters": 3, "max_members": 2},
    ],
)
def test_many_runs_at_once_equal_the_same_runs_one_by_one(clustering, rule, judge):
    rng = np.random.default_rng(0)
    answers = [None if a == "-" else a for a in rng.choice(list("aabc----"), size=14).tolist()]
    traces = group(answers, rng.integers(2, 30, size=14).tolist())
    policy = DeepPrune(FirstTokens(9), clustering=clustering, **rule)
    thresholds = [0.0, 0.2, 0.35, 0.5, 0.55, 0.6, 0.8, 1.0]
    points = [Point(replace(policy, threshold=t), 11, "it") for t in thresholds]
    points += [Point(policy, 1, "it")]  # no pair to ask for
    task = Task(QuestionRef(traces.question, traces.model, 14), tokens_prompt=7)
    runner = QuestionRunner(
        points, n_traces=12, resamples=5, seed=3, generators={"tiny": GeneratorSize(1e3, 2, 8)},
        load=lambda _: traces, judges={"it": judge}, mean_lengths={traces.key: 12.0},
        make_engine=lambda *g: ReplayEngine(*g, StepTimes(3, 1, 0.01, 100)),
    )  # fmt: skip
    at_once = runner(task)
    runner.is_watched = True
    one_by_one = runner(task)
    assert not at_once.failures
    assert not one_by_one.failures
    for name in FIELDS:
        np.testing.assert_allclose(at_once.fields[name], one_by_one.fields[name], err_msg=name)
    assert len(np.unique(at_once.fields["tokens_pruned"])) > 3  # the thresholds do differ


def test_a_prefix_that_stays_among_peers_that_grow_is_paid_once():
    """Two pairs are read, of 5 + 5 and of 5 + 8 tokens, and three prefixes, of 5, 5 and 8."""
    first, second = group(["a", "b"], [5, 20]).traces
    scores = QuestionScores(Sociable())
    ids = [
        scores.prefix_ids([Prefix(first, 5, True), Prefix(second, cut, False)]) for cut in (5, 8)
    ]
    scores.lookup(np.array(ids))
    assert scores.bill(np.array(ids)).tolist() == [2, 23 + 18, 3 * 23 + 5 * 18]


def test_scores_among_peers_are_computed_once_for_a_set_of_peers():
    """Six traces have 30 directed pairs; the orders of all six are one set, of four of them 15."""
    traces = group(list("aabbcc"), [20] * 6)
    policies = [DeepPrune(FirstTokens(9), clustering=c) for c in ("greedy", "average")]
    scored = []

    class Counting(Sociable):
        def score(self, pairs):
            scored.append(len(pairs))
            return super().score(pairs)

    for n_traces, most in ((6, 30), (4, 15 * 12)):
        scored.clear()
        points = [Point(policy, n_traces, "it") for policy in policies]
        runner = QuestionRunner(
            points, n_traces=n_traces, resamples=40, seed=3,
            generators={"tiny": GeneratorSize(1e3, 2, 8)}, load=lambda _: traces,
            make_engine=ReplayEngine, judges={"it": Counting()},
        )  # fmt: skip
        runner(Task(QuestionRef(traces.question, traces.model, 6), tokens_prompt=7))
        assert 0 < sum(scored) <= most


SAMPLING = [
    Consensus(),
    Consensus(k=4),
    AdaptiveConsistency(0.8),
    AdaptiveConsistency(0.7, cap=8, wave=3),
    AdaptiveConsistency(0.6, rule="majority"),
    ESC(3),
    ESC(2, cap=7),
    ShortM(k=5, m=2),
    ShortM(k=30, m=3),
    Race(width=1, budget=25),
    Race(width=4, budget=60),
    Race(width=20, budget=300),
]


@pytest.mark.parametrize("seed", range(4))
def test_sampling_at_once_equals_the_same_runs_one_by_one(seed):
    rng = np.random.default_rng(seed)
    answers = [None if a == "-" else a for a in rng.choice(list("aabbc---"), size=14).tolist()]
    traces = group(answers, rng.integers(0 if seed else 1, 12, size=14).tolist())
    steps = StepTimes(1.0, 0.4, 0.01, 1.0)  # computing takes longer from three traces on
    points = [Point(policy, n) for policy in SAMPLING for n in (12, 5)]
    runner = QuestionRunner(
        points, n_traces=12, resamples=9, seed=3, generators={"tiny": GeneratorSize(1e3, 2, 8)},
        load=lambda _: traces, make_engine=lambda group, prompt: ReplayEngine(group, prompt, steps),
        judges={}, mean_lengths={(*traces.question.key, "tiny"): 6.0},
    )  # fmt: skip
    task = Task(QuestionRef(traces.question, traces.model, 14), tokens_prompt=7)
    at_once = runner(task)
    runner.is_watched = True
    one_by_one = runner(task)
    assert not at_once.failures
    assert not one_by_one.failures
    for name in FIELDS:
        for number, point in enumerate(points):
            np.testing.assert_allclose(
                at_once.fields[name][number],
                one_by_one.fields[name][number],
                err_msg=f"{name} {point}",
            )
