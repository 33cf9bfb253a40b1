"""Short-m@k: start k traces, stop all once m have finished, and vote on those m.

Hassid et al. 2025, "Don't Overthink it" (https://arxiv.org/abs/2505.17813). As in the paper a tie
goes to the answer of the shorter trace. m = 3 is the paper's, k = 8 ours; of traces that finish
together the first started counts first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepprune.core.options import Count, checked
from deepprune.core.protocols import ANY_FINISHED, Evidence, IntArray, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER, Decision, StopReason
from deepprune.pruning.at_once import Runs, first_come_rows
from deepprune.pruning.voting import first_come, or_of_finished


@checked
@dataclass(frozen=True, slots=True)
class ShortM:
    """Takes the vote of the m shortest of k traces, and stops the others.

    Attributes:
        k: Traces to start, at most N.
        m: Traces that vote, at most k, with or without an answer.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    k: Count = 8
    m: Count = 3
    name: str = "short_m"

    def __post_init__(self) -> None:
        if self.m > self.k:
            raise ValueError(f"m must not exceed k={self.k}, got {self.m}")

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        k = min(self.k, n_traces)
        finished: list[int] = []  # in the order of finishing
        start = k
        while len(finished) < min(self.m, k):
            seen = yield Step(start=start, until=ANY_FINISHED)
            start = 0
            finished += [i for i in np.flatnonzero(seen.is_finished).tolist() if i not in finished]
        if running := sorted(set(range(k)) - set(finished)):
            yield Step(stop=[Decision(trace, StopReason.DECIDED) for trace in running])
        answers = seen.answer_class.tolist()
        return or_of_finished(first_come(answers, finished[: self.m]), answers, finished)

    def at_once(self, lengths: IntArray, answers: IntArray, mean_length: float | None) -> Runs:
        k = min(self.k, lengths.shape[1])
        m = min(self.m, k)
        rank = np.full(lengths.shape, lengths.shape[1])
        order = lengths[:, :k].argsort(1, kind="stable")
        np.put_along_axis(rank, order, np.arange(k), 1)
        end = np.take_along_axis(lengths, order[:, m - 1 : m], 1)  # of the m-th shortest
        n_tokens = np.where(np.arange(lengths.shape[1]) < k, np.minimum(lengths, end), 0)
        votes = rank < m
        is_void = ~(votes & (answers != NO_ANSWER)).any(1)
        votes = np.where(is_void[:, None], (n_tokens == lengths) & (rank < k), votes)
        winner = first_come_rows(answers, rank, votes)
        return Runs(np.zeros_like(lengths), n_tokens, votes, winner)
