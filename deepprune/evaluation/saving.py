"""The estimated saving of a policy where the full lengths of stopped traces are unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepprune.core.protocols import BoolArray, FloatArray, Usage
from deepprune.evaluation.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Saving:
    """The estimated saving against N traces that all run to their end.

    The full length of a stopped trace is unknown. A trace that did not reach its end, or was never
    started, counts with the mean length of those that did, and at least with its own. A failed
    trace counts with what it generated: a failure saves nothing.

    Attributes:
        tokens: Tokens of the N traces at full length.
        gross: Share of these tokens that was not generated; forced answers count as generated.
        net: The same in FLOPs with the judge's counted; ``None`` for a generator of unknown size.
        flops: FLOPs of the N traces, likewise.
    """

    tokens: float
    gross: float
    net: float | None
    flops: float | None


def estimated_saving(
    n_tokens: FloatArray,
    is_finished: BoolArray,
    is_failed: BoolArray,
    n_traces: int,
    usage: Usage,
    ledger: Ledger | None = None,
    judge_flops: float = 0.0,
) -> Saving | None:
    """Estimate a `Saving`; ``None`` while no trace has reached its end.

    Args:
        n_tokens: Tokens of the started traces, shape ``(n,)``.
        is_finished: Whether each reached its end, shape ``(n,)``.
        is_failed: Whether each failed, shape ``(n,)``.
        n_traces: N.
        usage: The engine's count, for the forced answers.
        ledger: For the net saving.
        judge_flops: FLOPs of the judge.
    """
    if not is_finished.any():
        return None
    mean = n_tokens[is_finished].mean()
    whole = np.where(is_finished | is_failed, n_tokens, np.maximum(n_tokens, mean))
    whole = np.append(whole, np.full(max(0, n_traces - len(n_tokens)), mean))
    tokens = float(whole.sum())
    gross = 1 - (float(n_tokens.sum()) + usage.tokens_forced) / tokens if tokens else 0.0
    if ledger is None:
        return Saving(tokens, gross, None, None)
    none = np.array(0.0)
    flops = float(ledger.flops(ledger.trace_flops(whole).sum(), none, none))
    spent = generator_flops(ledger, n_tokens, usage) + judge_flops
    return Saving(tokens, gross, 1 - spent / flops if flops else 0.0, flops)


def generator_flops(ledger: Ledger, n_tokens: FloatArray, usage: Usage) -> float:
    """Return the FLOPs of a question: prompt, traces, and the forced answers of ``usage``."""
    forced = np.array(float(usage.tokens_forced)), np.array(usage.forced_context)
    return float(ledger.flops(ledger.trace_flops(n_tokens).sum(), *forced))
