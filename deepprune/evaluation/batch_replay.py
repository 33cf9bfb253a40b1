"""Runs on a recording at once: DeepPrune's with one checkpoint, and those on final answers alone.

The decisions are those of `controller.run_question` on a `ReplayEngine` (tests compare them), as
arrays over runs: a sweep has 100,000 of them per question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepprune.core.flops import attended
from deepprune.core.protocols import FloatArray, IntArray, Need
from deepprune.core.types import NO_ANSWER, Prefix
from deepprune.evaluation.ledger import Ledger
from deepprune.evaluation.scores import QuestionScores
from deepprune.judge.base import Judge
from deepprune.pruning.at_once import AtOnce
from deepprune.pruning.clustering import Clusterings, cluster
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import ReplayEngine
from deepprune.pruning.voting import plurality_rows


def replay_batch(
    policies: Sequence[DeepPrune],
    engine: ReplayEngine,
    orders: IntArray,
    draws: FloatArray,
    scores: QuestionScores,
    ledger: Ledger,
    correct: IntArray,
) -> dict[str, NDArray[Any]]:
    """Return the outcomes of policies that differ only in threshold, finishing rule and vote.

    Args:
        policies: P of them, each with ``decides_once``.
        engine: The recorded traces.
        orders: The traces in the order of their start, shape ``(R, N)``; for a judge that reads
            peers the same traces in every row.
        draws: The policies' uniform draws, shape ``(R, N)``.
        scores: The judge's scores.
        ledger: Makes the bills.
        correct: Answer classes that are right.

    Returns:
        The fields of `outcomes.FIELDS`, each of shape ``(P, R)``.
    """
    first, has_pairs, judge = policies[0], orders.shape[1] > 1, scores.judge
    has_prices = type(judge).pair_prices is not Judge.pair_prices
    cuts = engine.cuts(first.prefix)
    ids = _scored_prefixes(engine, cuts, orders, scores)
    thresholds = sorted({p.threshold for p in policies})
    clusters = cluster(
        first.clustering,
        lambda pairs: scores.lookup(ids[pairs]),
        orders,
        thresholds,
        draws,
        max_clusters=first.max_clusters,
        max_members=first.max_members,
        price=(lambda pairs: scores.prices(ids[pairs])) if has_prices else None,
    )
    order = np.empty(len(clusters.labels), dtype=np.int64)  # row in `orders`, (G,)
    for number, rows in enumerate(clusters.at):
        order[rows] = number
    if has_pairs:  # a trace alone is not read
        once, sent_once = scores.prefix_prices(ids)
        clusters.bill[:, 1:] += once[orders].sum(1)[order]
        if sent_once.any():
            clusters.bill[:, 1:] += np.where(
                clusters.is_sent[..., None], sent_once[orders[order]], 0.0
            ).sum(1)
    forced = np.zeros((len(cuts), 2))
    if Need.FORCED_ANSWERS in judge.needs and has_pairs:
        forced = np.stack([engine.forced(i, cut) for i, cut in enumerate(cuts.tolist())])
    rules: defaultdict[DeepPrune, list[int]] = defaultdict(list)
    for number, policy in enumerate(policies):
        rules[_rule(policy)].append(number)
    finish = _finishing(engine, orders[order], cuts, clusters, ledger, correct, forced)
    fields: dict[str, NDArray[Any]] = {}
    for rule, numbers in rules.items():
        columns = [thresholds.index(policies[number].threshold) for number in numbers]
        runs_of = clusters.at[:, columns].T
        for name, values in finish(rule).items():
            shape = (len(policies), len(orders))
            fields.setdefault(name, np.empty(shape, values.dtype))[numbers] = values[runs_of]
    return fields


def _scored_prefixes(
    engine: ReplayEngine, cuts: IntArray, orders: IntArray, scores: QuestionScores
) -> IntArray:
    """Score the prefixes of all runs and return the number of each in the table, ``(M,)``."""
    traces = engine.group.traces
    here = np.unique(orders)
    prefixes = [
        Prefix(traces[i], int(cuts[i]), cuts[i] >= traces[i].n_tokens) for i in here.tolist()
    ]
    ids = np.zeros(len(traces), dtype=np.int64)
    ids[here] = scores.prefix_ids(prefixes)
    scores.score_all(ids[here])
    return ids


@lru_cache(maxsize=65_536)
def _rule(policy: DeepPrune) -> DeepPrune:
    """Return the policy without its threshold: how it decides on a given clustering."""
    return replace(policy, threshold=0.0, name="")


def _finishing(
    engine: ReplayEngine,
    traces: IntArray,
    cuts: IntArray,
    clusters: Clusterings,
    ledger: Ledger,
    correct: IntArray,
    forced: FloatArray,
) -> Callable[[DeepPrune], dict[str, NDArray[Any]]]:
    """Return a function from a finishing rule to the outcomes of G runs, each of shape ``(G,)``.

    ``traces`` are those of each run in the order of their start, shape ``(G, N)``; ``cuts`` where
    each recorded trace pauses, shape ``(M,)``; ``forced`` the answers forced for the judge, see
    `ReplayEngine.forced`, shape ``(M, 2)``.
    """
    length, cut, answer = engine.n_tokens[traces], cuts[traces], engine.answer_class[traces]
    has_ended = (cut >= length) & ~engine.is_open[traces]
    is_right = np.isin(answer, correct)
    whole, short = engine.n_tokens.astype(np.float64), cuts.astype(np.float64)
    flops, cut_flops = ledger.trace_flops(whole)[traces], ledger.trace_flops(short)[traces]
    prompt = engine.prompt_tokens
    read, cut_read = attended(whole, prompt)[traces], attended(short, prompt)[traces]
    tokens_forced = forced[traces, 0].astype(np.int64)
    context = forced[traces, 1].sum(1)
    forced_read = context + prompt * tokens_forced.sum(1)
    before = engine.steps.decode(cut) + engine.steps.decode(tokens_forced)

    def finish(rule: DeepPrune) -> dict[str, NDArray[Any]]:
        goes_on, weights = rule.finishers(clusters)
        n_tokens = np.where(goes_on, length, cut)
        finished = np.where(goes_on | (cut >= length), n_tokens, 0).sum(1)
        bill = ledger.bill(
            tokens_finished=finished,
            tokens_pruned=n_tokens.sum(1) - finished,
            tokens_forced=tokens_forced.sum(1),
            forced_context=context,
            trace_flops=np.where(goes_on, flops, cut_flops).sum(1),
            judge=clusters.bill,
        )
        winner = plurality_rows(answer, np.where(goes_on, weights, 0.0))
        votes = goes_on | (has_ended & (winner == NO_ANSWER)[:, None])
        spare = plurality_rows(answer, votes.astype(np.float64))
        winner = np.where(winner == NO_ANSWER, spare, winner)
        sequential = cut.max(1) + tokens_forced.max(1) + (n_tokens - cut).max(1)
        return {
            **bill,
            "is_correct": np.isin(winner, correct),
            "any_correct": (votes & is_right).any(1),
            "tokens_sequential": sequential,
            "peak_traces": (length > 0).sum(1),
            "engine_seconds": engine.steps.seconds(
                before + engine.steps.decode(n_tokens - cut),
                np.where(goes_on, read, cut_read).sum(1) + forced_read,
                prompt,
            ),
        }

    return finish


def replay_sampling(
    policy: AtOnce,
    engine: ReplayEngine,
    orders: IntArray,
    ledger: Ledger,
    correct: IntArray,
    mean_length: float | None,
) -> dict[str, NDArray[Any]]:
    """Return the outcomes of a policy that reads final answers alone, each of shape ``(R,)``.

    Args:
        policy: The policy.
        engine: The recorded traces, all whole.
        orders: The traces in the order of their start, shape ``(R, N)``.
        ledger: Makes the bills.
        correct: Answer classes that are right.
        mean_length: See `Evidence.mean_length`.
    """
    lengths, answers = engine.n_tokens[orders], engine.answer_class[orders]
    starts, n_tokens, votes, winner = policy.at_once(lengths, answers, mean_length)
    finished = np.where(n_tokens == lengths, n_tokens, 0).sum(1)
    none = np.zeros(len(orders))
    tokens = n_tokens.astype(np.float64)
    bill = ledger.bill(
        tokens_finished=finished,
        tokens_pruned=n_tokens.sum(1) - finished,
        tokens_forced=none,
        forced_context=none,
        trace_flops=ledger.trace_flops(tokens).sum(1),
        judge=np.zeros((len(orders), 3)),
    )
    steps, runs = engine.steps, n_tokens > 0
    times = np.concatenate((starts, starts + n_tokens), axis=1)
    change = np.concatenate((runs, -1 * runs), axis=1)
    by_time = np.lexsort((change, times), axis=1)  # ends before starts
    running = np.take_along_axis(change, by_time, 1).cumsum(1)
    stretch = np.diff(np.take_along_axis(times, by_time, 1), axis=1)
    slower = np.maximum(0, running[:, :-1] * steps.compute_s - steps.weights_s)
    sequential = times.max(1)
    decoding = steps.weights_s * sequential + (stretch * slower).sum(1)
    context = attended(tokens, engine.prompt_tokens).sum(1)
    return {
        **bill,
        "is_correct": np.isin(winner, correct),
        "any_correct": (votes & np.isin(answers, correct)).any(1),
        "tokens_sequential": sequential,
        "peak_traces": running.max(1),
        "engine_seconds": steps.seconds(decoding, context, engine.prompt_tokens),
    }
