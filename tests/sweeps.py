"""A small sweep of parts that other processes can be given: a store on disk, a judge, policies."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

import numpy as np
from builders import group

from deepprune.core.protocols import Step
from deepprune.core.types import NO_ANSWER, QuestionRef, Vote
from deepprune.data.prefixes import FirstTokens
from deepprune.evaluation import evaluator
from deepprune.evaluation.grid import Point, grid
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.runner import QuestionRunner
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import ReplayEngine
from deepprune.traces import TraceStore

SIZES = {"tiny": GeneratorSize(params=100, layers=2, hidden=4)}


class PricedJudge(Judge):
    """Directed, of some skill, a function of the two texts; 7 tokens and 50 FLOPs a pair."""

    def __init__(self):
        self.n_scored = 0

    @property
    def provenance(self):
        return JudgeProvenance("priced", "priced-1")

    def score(self, pairs):
        self.n_scored += len(pairs)
        return np.array([(self.noise(p) + (p.label or 0)) / 2 for p in pairs])

    @staticmethod
    def noise(pair):
        text = f"{pair.first.text}|{pair.second.text}".encode()
        return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") / 2**32

    def pair_prices(self, pairs):
        return Prices(np.full(len(pairs), 7.0), np.full(len(pairs), 50.0))


@dataclass(frozen=True)
class Silent:
    """Generates everything and says nothing: dearer and worse than any cons@k."""

    needs: ClassVar = frozenset()
    name: str = "silent"

    def run(self, n_traces, evidence, rng):
        yield Step(start=n_traces)
        return Vote(NO_ANSWER, {}, ())


def questions(n=6, seed=0, n_traces=8):
    """Questions whose traces end in a, which is right, more often than in anything else."""
    rng = np.random.default_rng(seed)
    return [
        group(
            rng.choice(["a", "a", "b", "c", None], size=n_traces).tolist(),
            rng.integers(5, 40, size=n_traces).tolist(),
            name=f"q{i:02}",
        )
        for i in range(n)
    ]


def write_store(folder, groups):
    """The questions in a trace store."""
    store = TraceStore.create(folder, token_counter="words", answers="source")
    store.append(t for g in groups for t in g.traces)
    return store


def refs(groups):
    """What a store would say of them."""
    return [QuestionRef(g.question, g.model, len(g.traces)) for g in groups]


def points(*more, thresholds=(0.3, 0.6), n_traces=8, judges=("priced",), **axes):
    """cons@k, DeepPrune at two prefix lengths, and ``more`` policies."""
    policies = {"deepprune": DeepPrune(FirstTokens(4), max_finishers=3)}
    return grid(
        policies | {p.name: p for p in more},
        n_traces=n_traces,
        judges=judges,
        thresholds=thresholds,
        prefixes=[FirstTokens(4), FirstTokens(8)],
        **axes,
    )


def evaluate(
    folder, groups=None, *, store=None, judge=None, chosen=None, make_engine=ReplayEngine,
    distributed=None, callbacks=(), baseline="consensus", margin=0.01, **changes,
):  # fmt: skip
    """Sweep ``groups``, or what a store has, into a folder, with one judge or a dict of them."""
    if store is None:
        groups = questions() if groups is None else groups
        by_key = dict(zip([r.key for r in refs(groups)], groups, strict=True))
        load, chosen_refs = (lambda ref: by_key[ref.key]), refs(groups)
    else:
        load, chosen_refs = store.group, store.refs()
    runner = QuestionRunner(
        points() if chosen is None else chosen,
        **{"n_traces": 8, "resamples": 3, "seed": 0, "generators": SIZES} | changes,
        load=load,
        make_engine=make_engine,
        judges=judge if isinstance(judge, dict) else {"priced": judge or PricedJudge()},
    )
    return evaluator.evaluate(
        runner, chosen_refs, folder, distributed=distributed, watchers=callbacks,
        baseline=baseline, margin=margin,
    )  # fmt: skip


def written(folder, *arguments, **settings):
    """The bytes of ``results.jsonl`` of a sweep."""
    evaluate(folder, *arguments, **settings)
    return (folder / "results.jsonl").read_bytes()


def flat(rows):
    """All that each row has, by name; estimates with their intervals."""
    return [
        {"policy": row.policy, "status": row.status, "reason": row.reason}
        | {**row.axes, **row.facts, **row.metrics, **row.counts}
        for row in rows
    ]


RIVALS = (
    AdaptiveConsistency(),
    DeepPrune(FirstTokens(4), finish="representatives", vote="size", wave=4, name="waves"),
)
"""Policies that take a sweep through all of its paths: by batch, and run by run."""


def with_silent(chosen):
    """The points, and one that all others dominate."""
    return [*chosen, Point(Silent(), chosen[0].n_traces)]
