"""MARS, margin-adversarial risk-controlled stopping: stop once switches cannot unseat the leader.

Chen et al. 2026 (https://arxiv.org/abs/2606.12935; code Wenbo11/MARS, mars/voting.py). A trace j
that still runs switches its answer before its end with probability q_j. Against a challenger k the
leader's margin is safe where it exceeds the sum of q_j c_j over running traces, where the cost c_j
is 2 gamma if j votes for the leader, -1 if j votes for k (it can only leave), gamma otherwise.
All traces stop when the leader is safe against every challenger, one that nobody has named
included; at the first checkpoint after the warm-up only if it is also the majority of the warm-up,
since all traces may begin with the same placeholder. Defaults: 16 warm-up traces, gamma = 1 (the
paper's fully conservative rows), and no Hoeffding term (off in all of its reported runs).
Departures:

- q is not the paper's five-feature logistic model with Platt scaling but a smoothed count over the
  warm-up traces: of their checkpoints with a similar streak of the same answer, the share whose
  answer is not the final one. Two of the five features are token confidences, which recordings with
  forced answers lack; position and number of flips are dropped with them.
- gamma is fixed; the paper's headline rows calibrate it per question on the warm-up traces.
- The warm-up traces are the question's first: they run to their end before the others start, are
  charged, vote, and cannot switch. The code draws them from the pool of the votes, charges nothing
  for them, and excludes all traces that end without an answer (here their forced answers count as
  switched).
- A finished trace has q = 0. A running one without an answer so far has q = 1; the code excludes
  it from the bound.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepprune.core.options import Count, Share, checked
from deepprune.core.protocols import BoolArray, Evidence, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER, Decision, StopReason
from deepprune.pruning.stopping import is_safe
from deepprune.pruning.voting import plurality


@checked
@dataclass(frozen=True, slots=True)
class MARS:
    """Learns on the first traces how often answers switch, then stops when the leader is safe.

    Attributes:
        force_every: Tokens between checkpoints.
        warmup: Traces that run to their end first; at N or above all do.
        gamma: In [0, 1]: how adversarially switching traces choose their new answer; 1 is the
            worst case.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FORCED_ANSWERS})

    force_every: Count = 500
    warmup: Count = 16
    gamma: Share = 1.0
    name: str = "mars"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        warmup = min(self.warmup, n_traces)
        streaks = [(NO_ANSWER, 0)] * n_traces
        history: list[tuple[int, int, int]] = []  # trace, bucket of its streak, answer
        running = list(range(warmup))
        seen = yield Step(start=warmup, until=self.force_every, force=running)
        while running:
            answers, running = seen.forced_class.tolist(), _running(running, seen.is_finished)
            buckets = _extend(streaks, running, answers)
            history += [(t, k, answers[t]) for t, k in zip(running, buckets, strict=True)]
            if running:
                seen = yield Step(until=self.force_every, force=running)
        final = seen.answer_class.tolist()
        switch, learnt = switch_probabilities(history, final), plurality(final, range(warmup))
        if warmup == n_traces:
            return learnt

        running, is_first = list(range(warmup, n_traces)), True
        seen = yield Step(start=len(running), until=self.force_every, force=running)
        while True:
            answers, running = seen.forced_class.tolist(), _running(running, seen.is_finished)
            vote = plurality(answers, range(n_traces))
            at_risk: dict[int, float] = defaultdict(float)
            buckets = _extend(streaks, running, answers)
            for trace, bucket in zip(running, buckets, strict=True):
                answer = answers[trace]
                at_risk[answer] += 1.0 if answer == NO_ANSWER else switch[bucket]
            is_placeholder = is_first and vote.answer_class != learnt.answer_class != NO_ANSWER
            is_decided = is_safe(vote.answer_class, vote.weights, at_risk, self.gamma)
            if not running or (is_decided and not is_placeholder):
                if running:
                    yield Step(stop=[Decision(trace, StopReason.DECIDED) for trace in running])
                return vote
            is_first = False
            seen = yield Step(until=self.force_every, force=running)


def switch_probabilities(
    history: list[tuple[int, int, int]], final: list[int]
) -> defaultdict[int, float]:
    """Return by bucket how often an answer is not the final one, ``(switched + 1) / (seen + 2)``.

    Args:
        history: Trace, bucket of its streak and answer at each checkpoint of the warm-up;
            checkpoints without an answer are skipped.
        final: Final answer class of each warm-up trace.
    """
    seen: dict[int, int] = defaultdict(int)
    switched: dict[int, int] = defaultdict(int)
    for trace, bucket, answer in history:
        if answer != NO_ANSWER:
            seen[bucket] += 1
            switched[bucket] += answer != final[trace]
    return defaultdict(lambda: 0.5, {b: (switched[b] + 1) / (n + 2) for b, n in seen.items()})


def _extend(streaks: list[tuple[int, int]], traces: list[int], answers: list[int]) -> list[int]:
    """Count the current answers in the ``streaks``: the last answer of a trace and its length.

    Returns:
        The bucket of each trace's streak: 1 for 1, 2 for 2-3, 3 for 4-7, 4 for 8-15, ...
    """
    for trace in traces:
        last, length = streaks[trace]
        streaks[trace] = answers[trace], length + 1 if answers[trace] == last else 1
    return [streaks[trace][1].bit_length() for trace in traces]


def _running(traces: list[int], is_finished: BoolArray) -> list[int]:
    finished = is_finished.tolist()
    return [trace for trace in traces if not finished[trace]]
