"""Early exit: each trace stops by itself once its forced answers stay the same.

Fu et al. 2024, Dynasor / Certaindex (https://arxiv.org/abs/2412.20993), its rule for one chain of
thought (hao-ai-lab/Dynasor, dynasor/cot.py). Default: 3 agreeing answers, the code's middle effort;
its others are 8, 5 and 2. Departures:

- The code forces answers every 64 tokens; here every 500, as public traces are recorded.
- The code also wants each forced answer's text free of "wait", "hmm" and the like; recordings
  keep only the answer itself.
- The code also probes before the first token.
- The paper exits from one chain of thought; here the exits of ``k`` traces are put to a vote.

As in the code, the next ``force_every`` tokens are generated while an answer is forced: a trace
stops one checkpoint after its answers agree. If it has ended by itself by then, its final answer
counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepprune.core.options import Count, checked
from deepprune.core.protocols import Evidence, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER, Decision, StopReason
from deepprune.pruning.voting import plurality


@checked
@dataclass(frozen=True, slots=True)
class EarlyExit:
    """Forces answers at checkpoints and stops each trace whose last ones agree.

    A stopped trace votes for the answer it settled on, a finished one for its final answer.

    Attributes:
        force_every: Tokens between forced answers.
        agreeing: Forced answers in a row that have to give the same answer.
        k: Traces to start, at most the N of the question; ``None`` for all N.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FORCED_ANSWERS})

    force_every: Count = 500
    agreeing: Count = 3
    k: Count | None = None
    name: str = "early_exit"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        k = min(self.k or n_traces, n_traces)
        votes = [NO_ANSWER] * k  # the last known answer of each trace
        streak = [0] * k  # how often it has been given in a row
        asked, settled = list(range(k)), list[int]()
        seen = yield Step(start=k, until=self.force_every, force=asked)
        while True:
            answers, finished = seen.answer_class.tolist(), seen.is_finished.tolist()
            stop = [Decision(t, StopReason.SETTLED) for t in settled if not finished[t]]
            for trace in asked:
                answer = int(seen.forced_class[trace])
                streak[trace] = streak[trace] + 1 if answer == votes[trace] else 1
                votes[trace] = answer
            votes = [
                a if is_ended else v
                for a, v, is_ended in zip(answers, votes, finished, strict=True)
            ]
            running = [trace for trace in asked if not finished[trace]]
            settled = [t for t in running if votes[t] != NO_ANSWER and streak[t] >= self.agreeing]
            asked = [trace for trace in running if trace not in settled]
            if not (stop or running):
                return plurality(votes, range(k))
            seen = yield Step(stop=stop, until=self.force_every, force=asked)
