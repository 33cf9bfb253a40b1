"""Slim-SC: of two running traces with similar thoughts, stop one.

Hong et al. 2025, Slim-SC: Thought Pruning for Efficient Scaling with Self-Consistency
(https://arxiv.org/abs/2509.13990), code ``slimsc``. Departures:

- The paper cuts traces into thoughts at phrases such as "Wait", embeds each with all-mpnet-base-v2
  and compares every new thought with all earlier thoughts of the other traces. Here two prefixes
  are compared every ``check_every`` tokens by the judge's score, only with each other.
  ``judge=sentence_embedding`` comes nearest: it reads the end of a prefix, so its latest thought.
  Its score is ``(1 + cosine) / 2``: a cosine of 0.9 is a score of 0.95.
- The paper's threshold is one on its own cosine, and its warm-up counts thoughts, so neither
  carries over: ``similarity``, ``warmup`` and ``check_every`` are ours.
- ``diversity`` stops the one of a pair that is more similar, on average, to all running traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from deepprune.core.options import Count, Share, checked
from deepprune.core.protocols import Evidence, IntArray, Need, PolicyRun, Step
from deepprune.core.types import Decision, StopReason
from deepprune.pruning.voting import plurality


@checked
@dataclass(frozen=True, slots=True)
class SlimSC:
    """Compares all running traces at checkpoints and stops redundant ones; the finished vote.

    A checkpoint with n running traces asks the judge for n (n - 1) / 2 scores.

    Attributes:
        similarity: In [0, 1]; a pair with a score above it loses one of its two traces.
        variant: The trace that stops: drawn (``random``), or that with the higher mean similarity
            to the other running traces (``diversity``; of equals the later one).
        warmup: Tokens of a trace before the first comparison.
        check_every: Tokens between two comparisons.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.JUDGE})

    similarity: Share = 0.95
    variant: Literal["random", "diversity"] = "diversity"
    warmup: Count = 256
    check_every: Count = 256
    name: str = "slim_sc"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        seen = yield Step(start=n_traces, until=self.warmup)
        while True:
            running = np.flatnonzero(~(seen.is_finished | seen.is_stopped))
            if not len(running):
                break
            stop = self._redundant(running, evidence, rng) if len(running) > 1 else []
            goes_alone = len(running) - len(stop) == 1
            seen = yield Step(stop=stop, until=None if goes_alone else self.check_every)
        return plurality(seen.answer_class.tolist(), np.flatnonzero(seen.is_finished).tolist())

    def _redundant(
        self, running: IntArray, evidence: Evidence, rng: np.random.Generator
    ) -> list[Decision]:
        """Return the decisions of a checkpoint, from the most similar pair down."""
        first, second = np.triu_indices(len(running), 1)
        scores = evidence.score(np.stack((running[first], running[second]), axis=1))
        means = np.zeros(len(running))
        np.add.at(means, first, scores)
        np.add.at(means, second, scores)
        means /= len(running) - 1
        decisions: dict[int, Decision] = {}
        for pair in np.argsort(-scores, kind="stable").tolist():
            if scores[pair] <= self.similarity:
                break
            a, b = int(first[pair]), int(second[pair])
            if a in decisions or b in decisions:
                continue
            stops_later = rng.random() < 0.5 if self.variant == "random" else means[b] >= means[a]
            out, stays = (b, a) if stops_later else (a, b)
            decisions[out] = Decision(
                int(running[out]),
                StopReason.REDUNDANT,
                by=int(running[stays]),
                score=float(scores[pair]),
            )
        return list(decisions.values())
