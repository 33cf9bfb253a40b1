"""Which traces of a store are paired: those of one model, or those of all models of a question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from deepprune.core.errors import InputError
from deepprune.core.types import QuestionRef, QuestionTraces

PAIRINGS = ("auto", "within_model", "cross_model")
CROSS_MODEL = "cross-model"
"""Stands for the model of pairs that are made of all models' traces."""

MIN_TRACES = 3
"""Fewest traces of a question of which one pair can agree and another differ."""

Load = Callable[[QuestionRef], QuestionTraces]


@dataclass(frozen=True, slots=True)
class Cell:
    """Questions of one data set whose traces are paired in one way.

    Attributes:
        dataset: The data set.
        model: The model, or `CROSS_MODEL`.
        questions: For each question what is paired with each other: one model's traces, or those of
            several models, of which some pairs are of one model too.
    """

    dataset: str
    model: str
    questions: tuple[tuple[QuestionRef, ...], ...]

    def groups(self, load: Load) -> Iterator[QuestionTraces]:
        """Of each question the traces that are paired, read as they are asked for."""
        for refs in self.questions:
            groups = [load(ref) for ref in refs]
            traces = tuple(trace for group in groups for trace in group.traces)
            yield replace(groups[0], model=self.model, traces=traces)


def cells(refs: Sequence[QuestionRef], pairing: str = "auto") -> list[Cell]:
    """The cells of a store, by data set.

    ``within_model`` has a cell for each model with two traces of some question. ``cross_model`` has
    one, of the questions with traces of two models or more: answer classes are those of a question,
    whoever answers it. ``auto`` stays within the models that have `MIN_TRACES` traces of a question
    (in the median), unless a data set mostly has fewer of its models, and then pairs across them.

    Args:
        refs: What there is.
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
            f"pairs={pairing} finds no question with two traces to pair among {len(refs)} "
            "of one model each: collect more traces, or take pairs=cross_model."
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
