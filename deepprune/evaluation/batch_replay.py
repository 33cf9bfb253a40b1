"""DeepPrune's one-checkpoint runs on a recording, all orders and thresholds at once.

The same decisions as `controller.run_question` on a `ReplayEngine`, which a test holds; here they
are arrays over runs, since a sweep has a hundred thousand of them a question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.types import Prefix
from deepprune.evaluation.ledger import Ledger
from deepprune.evaluation.scores import QuestionScores
from deepprune.pruning.clustering import Clusterings, cluster
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import Recording, forced_context
from deepprune.pruning.voting import plurality_rows


def replay_batch(
    policies: Sequence[DeepPrune],
    recording: Recording,
    orders: IntArray,
    draws: FloatArray,
    scores: QuestionScores,
    ledger: Ledger,
    correct: IntArray,
    seconds_per_token: float,
    tokens_per_forced_answer: int,
) -> dict[str, NDArray[Any]]:
    """Outcomes of policies that differ in threshold, finishing rule and vote alone.

    Args:
        policies: P of them, each with ``decides_once``.
        recording: The traces.
        orders: Which traces start, in which order, shape ``(R, N)``.
        draws: The policies' uniform draws, shape ``(R, N)``.
        scores: The judge's scores of the question.
        ledger: Draws the bills.
        correct: Answer classes that are right.
        seconds_per_token: Virtual decoding time of a token.
        tokens_per_forced_answer: Tokens that forcing an answer takes.

    Returns:
        The fields of `results.FIELDS`, each of shape ``(P, R)``.
    """
    if scores.reads_peers and len(orders) > 1:  # each order has traces, and scores, of its own
        parts = [
            replay_batch(
                policies,
                recording,
                orders[[row]],
                draws[[row]],
                scores,
                ledger,
                correct,
                seconds_per_token,
                tokens_per_forced_answer,
            )
            for row in range(len(orders))
        ]
        return {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}
    first, has_pairs = policies[0], orders.shape[1] > 1
    cuts = recording.cuts(first.prefix)
    prefixes = [
        Prefix(trace, cut, cut >= trace.n_tokens)
        for trace, cut in zip(recording.group.traces, cuts.tolist(), strict=True)
    ]
    if scores.reads_peers:
        scores, here = scores.of_one_run(), orders[0]
        ids = np.zeros(len(prefixes), dtype=np.int64)
        ids[here] = scores.prefix_ids([prefixes[trace] for trace in here.tolist()])
        scores.score_all(ids[here])
    else:
        ids = scores.prefix_ids(prefixes)
        scores.score_all(ids)
    thresholds = sorted({p.threshold for p in policies})
    clusters = cluster(
        first.clustering,
        lambda pairs: scores.lookup(ids[pairs]),
        orders,
        thresholds,
        draws,
        max_clusters=first.max_clusters,
        max_members=first.max_members,
        price=(lambda pairs: scores.prices(ids[pairs])) if scores.has_prices else None,
    )
    forced = np.zeros((len(ids), 2), dtype=np.int64)
    if scores.reads_forced_answers and has_pairs:
        forced = np.stack([recording.forced(i, cut) for i, cut in enumerate(cuts.tolist())])
    runs = _Runs(
        recording,
        orders,
        cuts,
        clusters,
        ledger,
        correct,
        seconds_per_token,
        forced,
        tokens_per_forced_answer,
    )
    if has_pairs:  # a trace alone is not read
        paid_once = scores.prefix_prices(ids)[orders].sum(1)  # tokens, FLOPs of an order, (R, 2)
        clusters.bill[:, 1:] += paid_once[runs.order]
    rules: defaultdict[DeepPrune, list[int]] = defaultdict(list)
    for number, policy in enumerate(policies):
        rules[_rule(policy)].append(number)
    shape = (len(policies), len(orders))
    fields: dict[str, NDArray[Any]] = {}
    for rule, numbers in rules.items():
        columns = [thresholds.index(policies[number].threshold) for number in numbers]
        for name, values in runs.finish(rule).items():
            fields.setdefault(name, np.empty(shape, values.dtype))[numbers] = values[
                clusters.at[:, columns]
            ].T
    return fields


@lru_cache(maxsize=65_536)
def _rule(policy: DeepPrune) -> DeepPrune:
    """What decides about a clustering, whatever threshold it came from."""
    return replace(policy, threshold=0.0, name="")


class _Runs:
    """G runs that stand at their checkpoint, one for each clustering."""

    def __init__(
        self,
        recording: Recording,
        orders: IntArray,
        cuts: IntArray,
        clusters: Clusterings,
        ledger: Ledger,
        correct: IntArray,
        seconds_per_token: float,
        forced: IntArray,
        tokens_per_forced_answer: int,
    ) -> None:
        self.order = np.empty(len(clusters.labels), dtype=np.int64)  # of each run
        for number, rows in enumerate(clusters.at):
            self.order[rows] = number
        traces = orders[self.order]
        self._clusters, self._ledger = clusters, ledger
        self._seconds_per_token = seconds_per_token
        size = ledger.size
        self._length, self._cut = recording.n_tokens[traces], cuts[traces]
        self._answer = recording.answer_class[traces]
        self._is_right = np.isin(self._answer, correct)
        self._correct = correct
        self._flops = size.flops(recording.n_tokens.astype(np.float64))[traces]
        self._cut_flops = size.flops(cuts.astype(np.float64))[traces]
        self._tokens_forced = tokens_per_forced_answer * forced[traces, 0]
        self._forced_context = forced_context(forced, tokens_per_forced_answer)[traces]

    def finish(self, rule: DeepPrune) -> dict[str, NDArray[Any]]:
        """What comes of the runs under a finishing rule, each field of shape ``(G,)``."""
        goes_on, weights = rule.finishers(self._clusters)
        n_tokens = np.where(goes_on, self._length, self._cut)
        finished = np.where(goes_on | (self._cut >= self._length), n_tokens, 0).sum(1)
        bill = self._ledger.bill(
            tokens_finished=finished,
            tokens_pruned=n_tokens.sum(1) - finished,
            tokens_forced=self._tokens_forced.sum(1),
            forced_context=self._forced_context.sum(1),
            trace_flops=np.where(goes_on, self._flops, self._cut_flops).sum(1),
            judge=self._clusters.bill,
        )
        winner = plurality_rows(self._answer, np.where(goes_on, weights, 0.0))
        sequential = self._cut.max(1) + self._tokens_forced.max(1)
        sequential += (n_tokens - self._cut).max(1)
        return {
            **bill,
            "is_correct": np.isin(winner, self._correct),
            "any_correct": (goes_on & self._is_right).any(1),
            "tokens_sequential": sequential,
            "peak_traces": (self._length > 0).sum(1),
            "seconds": sequential * self._seconds_per_token,
        }
