"""From the outcomes of questions to the rows of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deepprune.evaluation.results import PointOutcome, QuestionKey, Row
from deepprune.evaluation.statistics import Estimate, QuestionBootstrap
from deepprune.evaluation.sweep import Point
from deepprune.protocols import FloatArray
from deepprune.pruning.policies.consensus import Consensus

ABOVE_CONSENSUS = "accuracy_vs_matched_cons"


def sweep_rows(
    points: Sequence[Point],
    outcomes: Mapping[QuestionKey, Mapping[str, PointOutcome]],
    *,
    n_traces: int,
    judge: str,
    seed: int,
) -> list[Row]:
    """One row a point. Estimates carry their 95 % interval by a bootstrap over questions.

    A row holds:

    - ``policy``, its axes, ``judge``, ``n_questions``, ``n_traces``, ``resamples``, ``seed``;
    - ``accuracy``: share of questions whose vote is right, mean over orders of the traces;
    - ``pass_any``: share where any trace that was asked to vote is right;
    - ``accuracy_vs_cons_n``: paired difference to cons@N;
    - ``accuracy_vs_matched_cons``: paired difference to cons@k of the same tokens, between two k
      interpolated linearly in tokens; ``matched_k`` is that k;
    - per question ``tokens`` = ``tokens_finished`` + ``tokens_pruned`` + ``tokens_probes``,
      ``judge_calls``, ``judge_tokens``, ``judge_flops``, ``generator_flops``, ``seconds`` (of the
      engine's clock);
    - ``token_saving`` (gross): 1 - tokens / tokens of cons@N;
    - ``net_saving``: (generator FLOPs saved - judge FLOPs) / generator FLOPs of cons@N;
    - ``status``: ``ok``, or ``failed`` with its ``reason``.
    """
    keys = list(outcomes)
    bootstrap = QuestionBootstrap([f"{dataset}\n{question}" for dataset, question, _ in keys], seed)
    means = {p.key: _PointMeans(p, [outcomes[k][p.key] for k in keys]) for p in points}
    curve = [m for m in means.values() if isinstance(m.point.policy, Consensus) and m.is_ok]
    everything = next((m for m in curve if m.point.policy.k == n_traces), None)  # type: ignore[attr-defined]
    rows = []
    for point in points:
        mean = means[point.key]
        row: Row = {
            "policy": point.policy.name,
            **point.axes,
            "judge": None if isinstance(point.policy, Consensus) else judge,
            "n_questions": bootstrap.n_questions,
            "n_traces": n_traces,
            "seed": seed,
        }
        if mean.is_ok and everything is not None:
            row |= _measured(mean, everything, curve, bootstrap)
            row |= {"status": "ok", "reason": None}
        else:
            row |= {"status": "failed", "reason": mean.failure or "cons@N failed"}
        rows.append(row)
    return rows


class _PointMeans:
    """A point's outcomes as arrays over questions, means over the orders of the traces."""

    def __init__(self, point: Point, outcomes: Sequence[PointOutcome]) -> None:
        self.point = point
        self.failure = next((o.failure for o in outcomes if o.failure), None)
        self.is_ok = self.failure is None
        self._outcomes = outcomes
        self.resamples = len(outcomes[0].is_correct) if self.is_ok else 0

    def __getitem__(self, name: str) -> FloatArray:
        return np.array([np.mean(getattr(o, name)) for o in self._outcomes])

    @property
    def tokens(self) -> FloatArray:
        return self["tokens_finished"] + self["tokens_pruned"] + self["tokens_probes"]


def _measured(
    mean: _PointMeans, full: _PointMeans, curve: list[_PointMeans], bootstrap: QuestionBootstrap
) -> Row:
    accuracy, tokens = mean["is_correct"], mean.tokens
    matched_k, matched = _matched(float(tokens.mean()), curve)
    full_flops = full["generator_flops"]
    net = full_flops - mean["generator_flops"] - mean["judge_flops"]
    row: Row = {
        "resamples": mean.resamples,
        "accuracy": bootstrap.mean(accuracy),
        "pass_any": bootstrap.mean(mean["any_correct"]),
        "accuracy_vs_cons_n": bootstrap.mean(accuracy - full["is_correct"]),
        ABOVE_CONSENSUS: bootstrap.mean(accuracy - matched),
        "matched_k": matched_k,
        "tokens": float(tokens.mean()),
    }
    for name in ("tokens_finished", "tokens_pruned", "tokens_probes"):
        row[name] = float(mean[name].mean())
    row["token_saving"] = bootstrap.ratio(full.tokens - tokens, full.tokens)
    row["net_saving"] = bootstrap.ratio(net, full_flops)
    for name in ("judge_calls", "judge_tokens", "judge_flops", "generator_flops", "seconds"):
        row[name] = float(mean[name].mean())
    return row


def _matched(tokens: float, curve: list[_PointMeans]) -> tuple[float, FloatArray]:
    """The k, and the accuracy per question, of consensus sampling at ``tokens`` a question."""
    ordered = sorted(curve, key=lambda m: m.point.policy.k)  # type: ignore[attr-defined]
    spent = np.array([m.tokens.mean() for m in ordered])
    ks = np.array([m.point.policy.k for m in ordered], dtype=np.float64)  # type: ignore[attr-defined]
    place = float(np.interp(tokens, spent, np.arange(len(ordered))))  # clipped to cons@1 .. cons@N
    low = min(int(place), len(ordered) - 1)
    high, share = min(low + 1, len(ordered) - 1), place - low
    accuracy = (1 - share) * ordered[low]["is_correct"] + share * ordered[high]["is_correct"]
    return float((1 - share) * ks[low] + share * ks[high]), accuracy


def too_few_questions(rows: Sequence[Row], margin: float = 0.03) -> str | None:
    """A sentence where the questions cannot show that a policy stays within ``margin``.

    The test: the widest lower arm of the interval of ``accuracy_vs_cons_n`` exceeds the margin, so
    that a policy exactly as good as cons@N could not be told from one that loses ``margin``. An arm
    is at least 3 / n: what n questions without a difference leave open (the rule of three).
    """
    arms: list[float] = []
    for row in rows:
        difference = row.get("accuracy_vs_cons_n")
        if isinstance(difference, Estimate) and row["policy"] != "consensus":
            arms.append(max(difference.value - difference.low, 3 / row["n_questions"]))
    if not arms or max(arms) <= margin:
        return None
    n = rows[0]["n_questions"]
    needed = max(int(np.ceil(n * (max(arms) / margin) ** 2)), round(3 / margin))
    return (
        f"{n} questions are too few to show an accuracy within {100 * margin:.0f} points of "
        f"cons@N: the interval reaches {100 * max(arms):.1f} points down; "
        f"about {needed} would be needed."
    )
