"""Records that charts and tables show: lists of flat dictionaries, small enough for a page.

Shares are fractions; `accuracy` and its interval are in percent, since an axis shows them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.files import read_lines
from deepprune.core.protocols import FloatArray
from deepprune.core.statistics import Estimate
from deepprune.evaluation.metrics import ABOVE_CONSENSUS, ABOVE_CONSENSUS_NET, ABOVE_HULL
from deepprune.evaluation.outcomes import Row
from deepprune.judge.measure.comparison import HEADLINE, ComparedRow, is_clear_of_0
from deepprune.judge.measure.matrix import CellFacts
from deepprune.judge.measure.metrics import ECE_BINS, auroc, ece_bin
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report.labels import cost_of, frontier_rows, known_costs, labels, policy_label

Records = list[dict[str, Any]]

CONSENSUS = "consensus sampling"
"""Name of the curve of cons@k among the series."""

FEW_POINTS = 12
"""Up to so many points beside cons@k are drawn with intervals, joined over their thresholds."""

_METRICS = (
    "accuracy_vs_cons_n", ABOVE_CONSENSUS_NET, ABOVE_HULL, "token_saving",
    "net_saving",
)  # fmt: skip
_BINS = 20
_RATES = np.linspace(0, 1, 101)


def point_records(rows: Sequence[Row], run: str = "") -> Records:
    """Return the measured points of a sweep, each with its label, series, costs and metrics.

    ``frontier`` lists the costs at which a line passes through the point: those at which no other
    of its series beats it, or all where there are few points.
    """
    ok = [row for row in rows if row.status == "ok"]
    names = labels(ok)
    costs = known_costs(ok)
    is_few = sum(row.policy != "consensus" for row in ok) <= FEW_POINTS
    series = _series(ok, is_few)
    lines: defaultdict[int, list[str]] = defaultdict(list)
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(series):
        groups[name].append(i)
    for members in groups.values():
        for cost in costs:
            best = range(len(members)) if is_few else frontier_rows([ok[i] for i in members], cost)
            for i in best:
                lines[members[i]].append(cost)
    return [
        {
            **({"run": run} if run else {}),
            "label": name,
            "series": group,
            "policy": policy_label(row),
            **{axis: row.axes.get(axis) for axis in ("k", "judge", "threshold", "prefix_len")},
            **_percent("accuracy", row.accuracy),
            **{cost: _short(cost_of(row, cost)) for cost in costs},
            **{k: v for m in _METRICS for k, v in _percent(m, _shown(row, m)).items()},
            "judge_calls": _short(row.counts.get("judge_calls")),
            "frontier": lines[i],
            "few": is_few and row.policy != "consensus",
        }
        for i, (row, name, group) in enumerate(zip(ok, names, series, strict=True))
    ]


def _series(rows: Sequence[Row], is_few: bool) -> list[str]:
    """Name the line that each row is part of."""
    judges = {row.judge for row in rows} - {None}
    if is_few:
        names = labels([replace(row, axes=_without_threshold(row)) for row in rows])
    else:
        names = [policy_label(row) for row in rows]
        if len(judges) > 1:
            names = [
                f"{n}, judge {r.judge}" if r.judge else n for n, r in zip(names, rows, strict=True)
            ]
    return [CONSENSUS if r.policy == "consensus" else n for n, r in zip(names, rows, strict=True)]


def _without_threshold(row: Row) -> Mapping[str, Any]:
    return {name: value for name, value in row.axes.items() if name != "threshold"}


def _shown(row: Row, metric: str) -> Estimate | None:
    """Return a metric; no difference of cons@k to itself, a gross one where the net is unknown."""
    if metric != ABOVE_CONSENSUS_NET:
        return row.metrics.get(metric)
    if row.policy == "consensus":
        return None
    return row.metrics.get(metric) or row.metrics.get(ABOVE_CONSENSUS)


def _percent(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = (None,) * 3 if estimate is None else (_short(100 * v) for v in estimate)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _short(value: float | None) -> float | None:
    """Round to five digits; the run folder has them all."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def roc_records(scored: PairScores) -> Records:
    """Return the ROC curve of "same" pairs: pooled, and within questions.

    Within questions it is the mean of the questions' curves at equal false-positive rates, with the
    weights of ``auroc_within``, whose value is the area under it.
    """
    records = [{"curve": "pooled", "fpr": f, "tpr": t} for f, t in zip(*_roc(scored), strict=True)]
    total, mean = 0.0, np.zeros_like(_RATES)
    for part, weight in _questions(scored):
        total += weight
        mean += weight * np.interp(_RATES, *_roc(part))
    if total:
        mean[0] = 0
        within = zip(_RATES.tolist(), (mean / total).tolist(), strict=True)
        records += [{"curve": "within questions", "fpr": f, "tpr": t} for f, t in within]
    return [{**r, "fpr": _short(r["fpr"]), "tpr": _short(r["tpr"])} for r in records]


def _roc(scored: PairScores) -> tuple[FloatArray, FloatArray]:
    """Return false- and true-positive rates by falling threshold, at most 400 of each."""
    order = np.argsort(-scored.scores, kind="stable")
    labels_ = scored.labels[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(scored.scores[order])), len(order) - 1)  # ties at once
    rates = []
    for hits in (1 - labels_, labels_):
        rates.append(np.append(0.0, np.cumsum(hits)[last] / max(hits.sum(), 1)))
    kept = np.unique(np.linspace(0, len(last), min(400, len(last) + 1)).round().astype(int))
    return rates[0][kept], rates[1][kept]


def _questions(scored: PairScores) -> list[tuple[PairScores, float]]:
    """Return the pairs of each question that has both classes, and its weight."""
    found = []
    for name in np.unique(scored.group):
        part = scored.select(scored.group == name)
        weight = min(part.labels.sum(), len(part.labels) - part.labels.sum())
        if weight:
            found.append((part, float(weight)))
    return found


def question_auroc_records(scored: PairScores) -> Records:
    """Return the AUROC of each question with both classes, the lowest first."""
    records: Records = [
        {
            "question": str(part.question[0]),
            "auroc": _short(auroc(part.scores, part.labels.astype(np.float64))),
            "pairs": len(part.labels),
            "same": _short(float(part.labels.mean())),
        }
        for part, _ in _questions(scored)
    ]
    records.sort(key=lambda r: r["auroc"])
    return [{"rank": i + 1, **record} for i, record in enumerate(records)]


def reliability_records(scored: PairScores) -> Records:
    """Return mean score, share of "same" and number of pairs of each bin of the ECE."""
    records = []
    for kind, part in {"all pairs": scored, "both unfinished": scored.unfinished()}.items():
        if not part.scores.size:
            continue
        bins = ece_bin(part.scores)
        sizes = np.bincount(bins, minlength=ECE_BINS)
        sums = [np.bincount(bins, v, ECE_BINS) for v in (part.scores, part.labels)]
        records += [
            {
                "pairs": f"{kind}: ECE {part.metric('ece'):.3f}",
                "score": _short(sums[0][i] / sizes[i]),
                "same": _short(sums[1][i] / sizes[i]),
                "n": int(sizes[i]),
            }
            for i in np.flatnonzero(sizes).tolist()
        ]
    return records


def histogram_records(scored: PairScores) -> Records:
    """Return how many pairs of each class have a score in each of 20 bins."""
    edges = np.linspace(0, 1, _BINS + 1)
    return [
        {"class": name, "from": _short(edges[i]), "to": _short(edges[i + 1]), "n": int(n)}
        for value, name in ((1, "same answer"), (0, "different answers"))
        for i, n in enumerate(np.histogram(scored.scores[scored.labels == value], edges)[0])
    ]


def training_records(metrics_file: Path, run: str = "") -> Records:
    """Return the curves of ``metrics.jsonl``: the last line of a step counts, see `MetricsFile`."""
    found: dict[tuple[str, int], float | None] = {}
    for line in read_lines(metrics_file):
        for name, value in line.items():
            if name.startswith(("judge/train_", "judge/val_")) and value is not None:
                found[name.removeprefix("judge/"), line["step"]] = value
    return [
        {"run": run, "metric": name, "step": step, "value": _short(value)}
        for (name, step), value in found.items()
    ]


def run_records(rows: Sequence[ComparedRow], names: Sequence[str]) -> Records:
    """Return the rows of a comparison: options that vary, runs, metrics and differences."""
    records = []
    for row in rows:
        values = {name: row.overrides.get(name, "") for name in names}
        record = {
            "label": ", ".join(f"{n}={v}" for n, v in values.items()) or "all runs",
            **values,
            "runs": len(row.runs),
            "missing": len(row.missing),
        }
        for name, found in row.metrics.items():
            record |= _estimate(name, found)
        if (difference := row.differences.get(HEADLINE)) is not None:
            record |= _estimate("difference", difference)
            record["is_clear"] = is_clear_of_0(difference)
        records.append(record)
    return records


def _estimate(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {
        key: _short(value)
        for key, value in zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True)
    }


def matrix_records(rows: Sequence[Mapping[str, Any]]) -> Records:
    """Return judges and baselines in each cell of ``matrix.jsonl``, with their estimates."""
    return [
        {
            "cell": CellFacts.of(dict(row)).name,
            "judge": row["judge"],
            "kind": "baseline" if row["is_baseline"] else "judge",
            **{k: v for n, e in row["metrics"].items() for k, v in _estimate(n, e).items()},
        }
        for row in rows
    ]


def matrix_metrics(records: Records) -> list[str]:
    """Choose the two metrics to show: those of unfinished pairs where there are any."""
    names = (HEADLINE, "auroc_unfinished", "auroc_within", "auroc")
    return [name for name in names if any(r.get(name) is not None for r in records)][:2]


def heat_records(records: Records, names: Sequence[str]) -> Records:
    """Return the rows of `run_records` as cells: ``x`` is the last option, ``y`` all others."""
    *others, last = names
    return [
        {**record, "x": record[last], "y": ", ".join(record[name] for name in others)}
        for record in records
    ]


def parallel_records(records: Records, names: Sequence[str], metrics: Mapping[str, str]) -> Records:
    """Return a point for every row and every option and metric, ``place`` between 0 and 1.

    Args:
        records: See `run_records`.
        names: Options; their values stand in the order of their first rows.
        metrics: Metric -> name of its axis.
    """
    found: Records = []
    for name in names:
        values = list(dict.fromkeys(record[name] for record in records))
        for record in records:
            place = values.index(record[name]) / max(1, len(values) - 1)
            about = {"label": record["label"], "value": record[name]}
            found.append({**about, "axis": name, "place": _short(place)})
    for name, axis in metrics.items():
        known = [record for record in records if record.get(name) is not None]
        low, high = (end((r[name] for r in known), default=0.0) for end in (min, max))
        for record in known:
            place = (record[name] - low) / (high - low) if high > low else 0.5
            about = {"label": record["label"], "value": f"{record[name]:.4g}"}
            found.append({**about, "axis": axis, "place": _short(place)})
    return found
