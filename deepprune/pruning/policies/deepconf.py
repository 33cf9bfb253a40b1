"""DeepConf, online: stop traces that are generated with low confidence.

Fu et al. 2025, Deep Think with Confidence (https://arxiv.org/abs/2508.15260), checked against its
code (https://github.com/facebookresearch/deepconf): token confidence is minus the mean top-k
log-probability, a group is a window of 2048 tokens that slides by one, a trace shorter than that
is one group, and a trace votes with its confidence as its weight. Departures:

- A running trace is checked every ``check_every`` tokens; the paper stops it at the exact token.
- As in that code, a trace that ended although one of its groups had fallen below the threshold
  does not vote; here that is a trace that fell below it between two checks.
- If no trace that votes has an answer, all that have ended vote.
- The code runs its whole budget at once, here ``parallel`` traces run at a time. The paper's
  pseudocode adds traces until the leader has tau = .95 of the weights, its code does not, and so
  the default is ``consensus=None``. With .95 it is checked at every pause from the warm-up on, over
  the one or two traces that have passed by then, and ends 96 % of runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from deepprune.core.options import Count, Gt, Le, checked
from deepprune.core.protocols import Evidence, FloatArray, Need, PolicyRun, Step
from deepprune.core.types import Decision, StopReason, Vote
from deepprune.pruning.voting import or_of_finished, plurality


def group_confidences(confidence: FloatArray, window: int) -> FloatArray:
    """Return the mean confidence of every ``window`` tokens in a row, of all if there are fewer."""
    if len(confidence) < window:
        return np.array([confidence.mean() if len(confidence) else 0.0])
    sums = np.concatenate(([0.0], np.cumsum(confidence)))
    means: FloatArray = (sums[window:] - sums[:-window]) / window
    return means


@checked
@dataclass(frozen=True, slots=True)
class DeepConf:
    """Online: stops a trace that falls below the confidence of most warm-up traces.

    Attributes:
        keep: eta in (0, 1]: the threshold would keep this share of the warm-up traces; the paper's
            "low" is 0.1, its "high" 0.9.
        warmup: Traces that run to their end first.
        window: Tokens of a group.
        consensus: tau in (0, 1]: no more traces once the leading answer has this share of the
            weights; ``None`` always uses the whole budget.
        check_every: Tokens between two checks of a running trace.
        parallel: Traces that run at once after the warm-up.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONFIDENCE})

    keep: Annotated[float, Gt(0), Le(1)] = 0.1
    warmup: Count = 16
    window: Count = 2048
    consensus: Annotated[float, Gt(0), Le(1)] | None = None
    check_every: Count = 128
    parallel: Count = 16
    name: str = "deepconf"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        started = min(self.warmup, n_traces)
        seen = yield Step(start=started)
        lowest = np.full(n_traces, np.inf)  # the lowest group confidence of each trace so far
        read = [-1] * n_traces  # tokens of each trace that it covers
        bar: float | None = None
        while True:
            for trace, n_tokens in enumerate(seen.n_tokens.tolist()):
                has_group = seen.is_finished[trace] or n_tokens >= self.window
                if has_group and n_tokens > read[trace]:
                    first = max(0, read[trace] - self.window + 1)  # start of the first new group
                    groups = group_confidences(evidence.confidence(trace)[first:], self.window)
                    lowest[trace] = min(lowest[trace], groups.min())
                    read[trace] = n_tokens
            if bar is None:
                bar = float(np.percentile(lowest[:started], 100 * (1 - self.keep)))
            voters = np.flatnonzero(seen.is_finished & (lowest[:started] >= bar))
            vote = plurality(seen.answer_class.tolist(), voters.tolist(), lowest[voters].tolist())
            running = np.flatnonzero(~(seen.is_finished | seen.is_stopped)).tolist()
            if self._is_decided(vote):
                stop, start = [Decision(t, StopReason.DECIDED) for t in running], 0
            else:
                stop = [Decision(t, StopReason.UNSURE) for t in running if lowest[t] < bar]
                start = min(self.parallel - len(running) + len(stop), n_traces - started)
            if not (running or start):
                finished = np.flatnonzero(seen.is_finished).tolist()
                return or_of_finished(vote, seen.answer_class.tolist(), finished)
            started += start
            seen = yield Step(start=start, stop=stop, until=self.check_every)

    def _is_decided(self, vote: Vote) -> bool:
        total = sum(vote.weights.values())
        if self.consensus is None or not total:
            return False
        return vote.weights[vote.answer_class] / total >= self.consensus
