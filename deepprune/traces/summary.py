"""What a trace store holds, in numbers: one row per dataset and model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deepprune.core.errors import InputError
from deepprune.core.types import NO_ANSWER
from deepprune.traces.store import TraceStore


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """The traces of one model on one dataset.

    Attributes:
        dataset: The dataset.
        model: The model; ``None`` for all models of the dataset taken together.
        questions: Questions with at least one trace.
        traces: Traces.
        tokens: Tokens over all traces.
        token_counter: Who counted them: ``generator``, or the name of a tokenizer.
        traces_per_question: Median over questions.
        answered: Fraction of traces with an answer.
        accuracy: Fraction of traces that are correct, of those whose question has a gold answer.
        same_answer: Fraction of pairs within a question, both with an answer, that have the same
            one; pooled over all pairs. ``None`` where there is no pair.
        pairs: Number of those pairs.
        pass_at_1: Accuracy per question, averaged over questions.
        cons_at_n: Accuracy of the plurality of the answers of all traces of a question, averaged
            over questions; ties are split evenly, a question without any answer counts 0.
    """

    dataset: str
    model: str | None
    questions: int
    traces: int
    tokens: int
    token_counter: str
    traces_per_question: float
    answered: float
    accuracy: float | None
    same_answer: float | None
    pairs: int
    pass_at_1: float | None
    cons_at_n: float | None


def summarise(store: TraceStore) -> list[TraceSummary]:
    """Summarise a store by dataset and model, without reading any text.

    A dataset with several models gets a further row, with ``model=None``, over all its traces.

    Raises:
        InputError: If the store is empty.
    """
    if not store.models:
        raise InputError("the trace store is empty: it has no traces yet.")
    names = ("dataset", "question_id", "model")
    numbers = ("n_tokens", "answer_class")
    table = store.columns([*names, *numbers, "is_correct"])
    dataset, question_id, model = (table.column(name).to_pylist() for name in names)
    n_tokens, answer_class = (table.column(name).to_numpy() for name in numbers)
    # A trace's correctness: 1, 0, or NaN without a gold answer.
    is_correct = np.array(
        [np.nan if c is None else float(c) for c in table.column("is_correct").to_pylist()]
    )
    rows: defaultdict[tuple[str, str], defaultdict[str, list[int]]]
    rows = defaultdict(lambda: defaultdict(list))
    for i, key in enumerate(zip(dataset, model, strict=True)):
        rows[key][question_id[i]].append(i)

    def one(dataset: str, model: str | None, groups: Iterable[Sequence[int]]) -> TraceSummary:
        members = [np.array(group) for group in groups]
        return _summarise_groups(
            dataset,
            model,
            store.manifest.token_counter,
            [n_tokens[group] for group in members],
            [answer_class[group] for group in members],
            [is_correct[group] for group in members],
        )

    summaries = []
    for name in sorted({name for name, _ in rows}):
        models = sorted(model for dataset, model in rows if dataset == name)
        summaries += [one(name, model, rows[name, model].values()) for model in models]
        if len(models) > 1:
            together: defaultdict[str, list[int]] = defaultdict(list)
            for model_name in models:
                for question, group in rows[name, model_name].items():
                    together[question] += group
            summaries.append(one(name, None, together.values()))
    return summaries


def _summarise_groups(
    dataset: str,
    model: str | None,
    token_counter: str,
    n_tokens: Sequence[NDArray[np.int32]],
    classes: Sequence[NDArray[np.int32]],
    is_correct: Sequence[NDArray[np.float64]],
) -> TraceSummary:
    """Summarise traces given by question, each question an entry of the three sequences."""
    same = pairs = 0
    for of_question in classes:
        counts = np.unique(of_question[of_question != NO_ANSWER], return_counts=True)[1]
        same += int((counts * (counts - 1) // 2).sum())
        pairs += int(counts.sum() * (counts.sum() - 1) // 2)
    n_traces = sum(map(len, n_tokens))
    graded = [(k, c) for k, c in zip(classes, is_correct, strict=True) if not np.isnan(c).any()]
    return TraceSummary(
        dataset=dataset,
        model=model,
        questions=len(n_tokens),
        traces=n_traces,
        tokens=sum(int(n.sum()) for n in n_tokens),
        token_counter=token_counter,
        traces_per_question=float(median(map(len, n_tokens))),
        answered=sum(int((k != NO_ANSWER).sum()) for k in classes) / n_traces,
        accuracy=float(np.concatenate([c for _, c in graded]).mean()) if graded else None,
        same_answer=same / pairs if pairs else None,
        pairs=pairs,
        pass_at_1=float(np.mean([c.mean() for _, c in graded])) if graded else None,
        cons_at_n=float(np.mean([plurality_accuracy(*g) for g in graded])) if graded else None,
    )


def plurality_accuracy(classes: NDArray[np.int32], is_correct: NDArray[np.float64]) -> float:
    """Expected accuracy of the most frequent answer class, one of the tied drawn at random.

    >>> plurality_accuracy(np.array([0, 0, 1, 1, -1]), np.array([1.0, 1, 0, 0, 0]))
    0.5
    """
    ids, counts = np.unique(classes[classes != NO_ANSWER], return_counts=True)
    if not len(ids):
        return 0.0
    tied = ids[counts == counts.max()]
    return float(np.mean([is_correct[classes == k].mean() for k in tied]))
