"""The model card of an exported judge: ``README.md`` with the metadata of Hugging Face's hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from deepprune.core.statistics import Estimate
from deepprune.judge.base import Prices
from deepprune.judge.measure.comparison import HEADLINE
from deepprune.judge.saved import SavedJudge
from deepprune.report.tables import SHOWN_JUDGE_METRICS, metric_label

CARD = "README.md"

_TEXT = """\
# {name}

A judge of two unfinished chains of thought on one question: its score is the probability that both
will end in the same answer. Trained and measured with deepprune.

```python
from deepprune import load_judge

judge = load_judge("FOLDER")  # of this repository
```

`deepprune evaluate judge=trained judge.path=FOLDER` sweeps pruning policies with it,
`deepprune judge-report FOLDER traces=YOUR_TRACES` measures it on other traces.

## Training

- {n_seen:,} questions of {datasets}, with traces of {models}
- prefixes: {rule}
- kind: {kind}{backbone}; {steps} optimiser steps

## Quality

On {n_questions:.0f} held-out questions of the same data, {n_pairs:,.0f} pairs of traces, with 95 %
intervals over questions:

| metric | value |
| --- | --- |
{metrics}

## Bill

{tokens:,.0f} tokens and {flops:.2g} FLOPs for a pair, in the mean of the pairs above.

## Limits

- Measured on these data sets, models and prefixes alone: measure it on yours before use.
- A score is no statement about whether an answer is right.
- `judge.json` has the hashes of the training questions, so that deepprune excludes them from every
  evaluation; questions that were only rephrased are not recognised.
"""


def model_card(
    record: SavedJudge,
    estimates: Mapping[str, Estimate],
    bill: Prices,
    *,
    datasets: Sequence[str],
    models: Sequence[str],
) -> str:
    """Return the card.

    Args:
        record: The judge's ``judge.json``.
        estimates: Its metrics on all test pairs.
        bill: What scoring each of some test pairs costs.
        datasets: Data sets of the training.
        models: Models whose traces it was trained on.
    """
    source = record.settings.get("backbone", {}).get("source")
    shown = {name: estimates[name] for name in SHOWN_JUDGE_METRICS if name in estimates}
    metadata: dict[str, Any] = {
        "library_name": "deepprune",
        "pipeline_tag": "text-classification",
        "tags": ["deepprune", "chain-of-thought", "self-consistency"],
    }
    if source and "/" in source:
        metadata["base_model"] = source
    if (headline := estimates.get(HEADLINE)) is not None:
        measured = {"type": "roc_auc", "name": metric_label(HEADLINE), "value": headline.value}
        result = {
            "task": {"type": "text-classification"},
            "dataset": {"type": datasets[0], "name": ", ".join(datasets)},
            "metrics": [measured],
        }
        metadata["model-index"] = [{"name": record.name, "results": [result]}]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n" + _TEXT.format(
        name=record.name,
        n_seen=len(record.seen_questions),
        datasets=", ".join(datasets),
        models=", ".join(models),
        rule=record.prefix_rule,
        kind=record.kind,
        backbone=f" on {source}" if source else "",
        steps=record.training.get("steps", "unknown"),
        n_questions=estimates["n_questions"].value,
        n_pairs=estimates["n_pairs"].value,
        metrics="\n".join(
            f"| {metric_label(n)} | {e.value:.3f} [{e.low:.3f}, {e.high:.3f}] |"
            for n, e in shown.items()
        ),
        tokens=bill.tokens.mean(),
        flops=bill.flops.mean(),
    )
