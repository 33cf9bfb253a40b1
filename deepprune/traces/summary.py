"""Summary statistics of a trace store, by dataset and model."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deepprune.core.errors import InputError
from deepprune.core.types import NO_ANSWER, FinishReason
from deepprune.traces.index import GroupKey
from deepprune.traces.store import TraceStore


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """The traces of one model on one dataset.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model; ``None`` for all models of the dataset.
        questions: Number of questions with at least one trace.
        traces: Number of traces.
        tokens: Tokens over all traces.
        token_counter: ``generator``, or the name of the tokenizer that counted them.
        traces_per_question: Median over questions.
        answered: Fraction of traces with an answer.
        accuracy: Fraction of correct traces, over questions with a gold answer.
        same_answer: Fraction of pairs of answered traces of a question that have the same answer;
            ``None`` without pairs.
        pairs: Number of those pairs.
        pass_at_1: Accuracy per question, averaged over questions.
        cons_at_n: Accuracy of the most frequent answer of a question, averaged over questions; ties
            are split evenly, a question without any answer counts 0.
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
    """Summarise a store by dataset and model, without reading texts.

    A dataset with several models gets another row, with ``model=None``, over all its traces.

    Raises:
        InputError: If the store is empty.
    """
    if not store.models:
        raise InputError("the trace store is empty: import or collect traces first.")
    names = ("dataset", "question_id", "model")
    numbers = ("n_tokens", "answer_class")
    table = store.columns([*names, *numbers, "is_correct"])
    n_tokens, classes = (np.array(table.column(name).to_pylist()) for name in numbers)
    # Correctness of a trace: 1, 0, or NaN without a gold answer.
    is_correct = np.array(
        [np.nan if c is None else float(c) for c in table.column("is_correct").to_pylist()]
    )
    rows: defaultdict[tuple[str, str | None], defaultdict[str, list[int]]]
    rows = defaultdict(lambda: defaultdict(list))  # (dataset, model) -> question -> rows
    for i, (dataset, question, model) in enumerate(
        zip(*(table.column(name).to_pylist() for name in names), strict=True)
    ):
        rows[dataset, model][question].append(i)
        rows[dataset, None][question].append(i)

    summaries = []
    for dataset, model in sorted(rows, key=lambda key: (key[0], key[1] is None, key[1] or "")):
        if model is None and sum(name == dataset for name, _ in rows) == 2:
            continue  # one model: the row over all models would repeat its row
        members = [np.array(group) for group in rows[dataset, model].values()]
        graded = [k for k in members if not np.isnan(is_correct[k]).any()]
        answered = [classes[k][classes[k] != NO_ANSWER] for k in members]
        counts = [np.unique(c, return_counts=True)[1] for c in answered]
        same = sum(int((n * (n - 1) // 2).sum()) for n in counts)
        pairs = sum(int(n.sum() * (n.sum() - 1) // 2) for n in counts)
        every = np.concatenate(members)
        means = [is_correct[k].mean() for k in graded]
        votes = [plurality_accuracy(classes[k], is_correct[k]) for k in graded]
        summaries.append(
            TraceSummary(
                dataset=dataset,
                model=model,
                questions=len(members),
                traces=len(every),
                tokens=int(n_tokens[every].sum(dtype=np.int64)),
                token_counter=store.manifest.token_counter,
                traces_per_question=float(median(map(len, members))),
                answered=sum(map(len, answered)) / len(every),
                accuracy=float(is_correct[np.concatenate(graded)].mean()) if graded else None,
                same_answer=same / pairs if pairs else None,
                pairs=pairs,
                pass_at_1=float(np.mean(means)) if graded else None,
                cons_at_n=float(np.mean(votes)) if graded else None,
            )
        )
    return summaries


def mean_lengths(store: TraceStore) -> dict[GroupKey, float]:
    """Return for each question and model the mean trace length of the model's other questions.

    It is their tokens over their traces that ended by themselves. Without any, or if those are
    empty, it is the question's own, and 1 if that is empty too.
    """
    names = ["dataset", "question_id", "model", "finish_reason", "n_tokens"]
    columns = (column.to_pylist() for column in store.columns(names).itercolumns())
    tokens, ended = Counter[GroupKey | str](), Counter[GroupKey | str]()
    for dataset, question, model, reason, n_tokens in zip(*columns, strict=True):
        whole = FinishReason(reason).is_whole
        for key in ((dataset, question, model), model):
            tokens[key] += n_tokens
            ended[key] += whole

    def mean(key: GroupKey) -> float:
        n_others = ended[key[2]] - ended[key]
        others = (tokens[key[2]] - tokens[key]) / n_others if n_others else 0.0
        return others or tokens[key] / max(1, ended[key]) or 1.0

    return {key: mean(key) for key in tokens if isinstance(key, tuple)}


def agreements(store: TraceStore) -> dict[GroupKey, float]:
    """Return for each question and model the share of traces with its most frequent answer."""
    names = ["dataset", "question_id", "model", "answer_class"]
    columns = (column.to_pylist() for column in store.columns(names).itercolumns())
    classes: defaultdict[GroupKey, list[int]] = defaultdict(list)
    for *key, answer in zip(*columns, strict=True):
        classes[tuple(key)].append(answer)
    counts = {key: Counter(k for k in found if k != NO_ANSWER) for key, found in classes.items()}
    return {k: max(counts[k].values(), default=0) / len(found) for k, found in classes.items()}


def plurality_accuracy(classes: NDArray[np.int32], is_correct: NDArray[np.float64]) -> float:
    """Return the expected accuracy of the most frequent answer class, ties broken at random.

    >>> plurality_accuracy(np.array([0, 0, 1, 1, -1]), np.array([1.0, 1, 0, 0, 0]))
    0.5
    """
    ids, counts = np.unique(classes[classes != NO_ANSWER], return_counts=True)
    if not len(ids):
        return 0.0
    tied = ids[counts == counts.max()]
    return float(np.mean([is_correct[classes == k].mean() for k in tied]))
