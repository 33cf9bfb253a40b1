"""Choice of the traces to pair: those of one model, or those of all models of a question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from deepprune.core.errors import InputError
from deepprune.core.types import QuestionRef, QuestionTraces

PAIRINGS = ("auto", "within_model", "cross_model")
CROSS_MODEL = "cross-model"
"""Model name of pairs across models."""

MIN_TRACES = 3
"""Fewest traces of a question with which one pair can agree and another differ."""

Load = Callable[[QuestionRef], QuestionTraces]


@dataclass(frozen=True, slots=True)
class Cell:
    """Questions of one data set whose traces are paired in one way.

    Attributes:
        dataset: Name of the data set.
        model: Name of the model, or `CROSS_MODEL`.
        questions: The traces to pair, per question: those of one model, or of several; some pairs
            are then of one model, too.
    """

    dataset: str
    model: str
    questions: tuple[tuple[QuestionRef, ...], ...]

    def groups(self, load: Load) -> Iterator[QuestionTraces]:
        """Load the traces to pair, one question at a time."""
        for refs in self.questions:
            groups = [load(ref) for ref in refs]
            traces = tuple(trace for group in groups for trace in group.traces)
            yield replace(groups[0], model=self.model, traces=traces)


def cells(refs: Sequence[QuestionRef], pairing: str = "auto") -> list[Cell]:
    """Return the cells of a store, sorted by data set.

    ``within_model`` makes a cell for each model with two traces of some question. ``cross_model``
    makes one cell per data set, of the questions with traces of at least two models, which share
    the answer classes of the question. ``auto`` pairs within each model that has at least
    `MIN_TRACES` traces per question (median), and across models in a data set whose median over all
    models is lower.

    Args:
        refs: The traces of the store.
        pairing: One of `PAIRINGS`.

    Raises:
        InputError: If the pairing is unknown, or there is nothing to pair.
    """
    if pairing not in PAIRINGS:
        raise InputError(f"pairs must be one of {', '.join(PAIRINGS)}, got {pairing!r}.")
    by_dataset: defaultdict[str, list[QuestionRef]] = defaultdict(list)
    for ref in refs:
        by_dataset[ref.question.dataset].append(ref)
    found: list[Cell] = []
    for dataset, here in sorted(by_dataset.items()):
        few = median(ref.n_traces for ref in here) < MIN_TRACES
        is_across = pairing == "cross_model" or (pairing == "auto" and few)
        within = [] if is_across else _within(dataset, here, pairing)
        found += within
        if not within and pairing != "within_model":
            found += _across(dataset, here)
    if not found:
        raise InputError(
            f"pairs={pairing} needs a question with two traces, found none among {len(refs)} "
            "question-model groups: collect more traces, or use pairs=cross_model."
        )
    return found


def _within(dataset: str, refs: Sequence[QuestionRef], pairing: str) -> list[Cell]:
    by_model: defaultdict[str, list[QuestionRef]] = defaultdict(list)
    for ref in refs:
        by_model[ref.model].append(ref)
    least = MIN_TRACES if pairing == "auto" else 2
    return [
        Cell(dataset, model, tuple((ref,) for ref in of_model if ref.n_traces > 1))
        for model, of_model in sorted(by_model.items())
        if (median if pairing == "auto" else max)(ref.n_traces for ref in of_model) >= least
    ]


def _across(dataset: str, refs: Sequence[QuestionRef]) -> list[Cell]:
    by_question: defaultdict[str, list[QuestionRef]] = defaultdict(list)
    for ref in refs:
        by_question[ref.question.question_id].append(ref)
    questions = tuple(tuple(of) for of in by_question.values() if len(of) > 1)
    return [Cell(dataset, CROSS_MODEL, questions)] if questions else []
