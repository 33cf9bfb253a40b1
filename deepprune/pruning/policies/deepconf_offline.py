"""DeepConf, offline: the most confident of the finished traces vote. It saves no tokens by itself.

Fu et al. 2025, Deep Think with Confidence (https://arxiv.org/abs/2508.15260). The measures, the
percentile and the exclusion of traces without an answer follow its code
(https://github.com/facebookresearch/deepconf), with its 2048 tokens, bottom tenth and top tenth
(the paper also keeps nine tenths). No departures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from deepprune.core.options import Count, Gt, Le, checked
from deepprune.core.protocols import Evidence, FloatArray, Need, PolicyRun, Step
from deepprune.core.types import NO_ANSWER
from deepprune.pruning.policies.deepconf import group_confidences
from deepprune.pruning.voting import plurality

_BOTTOM = 0.1  # share of groups that `bottom_groups` averages


@checked
@dataclass(frozen=True, slots=True)
class DeepConfOffline:
    """Runs ``k`` traces to their end; the most confident vote, weighted by their confidence.

    Attributes:
        k: Traces to sample, at most the N of the question; ``None`` for all N.
        measure: Confidence of a trace: the mean over its tokens (``mean``), over its last
            ``window`` tokens (``tail``), over its lowest group (``lowest_group``) or over the
            lowest tenth of its groups (``bottom_groups``).
        keep: eta in (0, 1]: the share of the traces with an answer that vote.
        window: Tokens of a group, and of the tail.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONFIDENCE})

    k: Count | None = None
    measure: Literal["mean", "tail", "lowest_group", "bottom_groups"] = "tail"
    keep: Annotated[float, Gt(0), Le(1)] = 0.1
    window: Count = 2048
    name: str = "deepconf_offline"

    def run(self, n_traces: int, evidence: Evidence, rng: np.random.Generator) -> PolicyRun:
        k = min(self.k or n_traces, n_traces)
        seen = yield Step(start=k)
        voters = np.flatnonzero(seen.answer_class != NO_ANSWER)
        weights = np.array([self.measured(evidence.confidence(t)) for t in voters.tolist()])
        if len(voters):
            is_kept = weights >= np.percentile(weights, 100 * (1 - self.keep))
            voters, weights = voters[is_kept], weights[is_kept]
        return plurality(seen.answer_class.tolist(), voters.tolist(), weights.tolist())

    def measured(self, confidence: FloatArray) -> float:
        """Return the confidence of a trace, given those of its tokens, shape ``(n_tokens,)``."""
        if self.measure == "mean":
            return float(confidence.mean())
        if self.measure == "tail":
            return float(confidence[-self.window :].mean())
        groups = np.sort(group_confidences(confidence, self.window))
        n_lowest = 1 if self.measure == "lowest_group" else max(1, int(_BOTTOM * len(groups)))
        return float(groups[:n_lowest].mean())
