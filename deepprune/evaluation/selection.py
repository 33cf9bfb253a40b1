"""Which questions a sweep runs on."""

from __future__ import annotations

from collections.abc import Sequence

from deepprune.data.splits import question_hash
from deepprune.errors import InputError
from deepprune.judge.base import Judge
from deepprune.seeding import generator
from deepprune.types import QuestionTraces


def select_questions(
    groups: Sequence[QuestionTraces],
    *,
    n_questions: int | None,
    n_traces: int | None,
    skip_short: bool,
    seed: int,
) -> tuple[list[QuestionTraces], int]:
    """Choose questions, and N.

    Args:
        groups: What the store has.
        n_questions: So many, drawn by the seed and kept in their order; ``None`` for all.
        n_traces: N; ``None`` for as many as every question has.
        skip_short: Leave out questions with fewer than N traces.
        seed: Decides the draw.

    Returns:
        The questions and N.

    Raises:
        InputError: If N would be below 2, or `check_questions` finds fault.
    """
    if n_traces is None:
        shortest = min(groups, key=lambda g: len(g.traces))
        n_traces = len(shortest.traces)
        way_out = "set sweep.traces and sweep.skip_short=true to leave such questions out"
        where = f" for question {shortest.question.question_id!r} ({shortest.model}): {way_out}"
    else:
        where = " for sweep.traces"
    if n_traces < 2:
        raise InputError(f"a vote needs at least 2 traces a question, got {n_traces}{where}.")
    if skip_short:
        groups = [g for g in groups if len(g.traces) >= n_traces]
        if not groups:
            raise InputError(f"no question has {n_traces} traces: lower sweep.traces.")
    if n_questions is not None:
        if n_questions < 1:
            raise InputError(f"sweep.questions must be at least 1, got {n_questions}.")
        drawn = generator(seed, "questions").permutation(len(groups))[:n_questions]
        groups = [groups[i] for i in sorted(drawn)]
    check_questions(groups, n_traces)
    return list(groups), n_traces


def check_questions(questions: Sequence[QuestionTraces], n_traces: int) -> None:
    """What a sweep needs of its questions.

    Raises:
        InputError: If there are none, or one has no gold answer or fewer than N traces.
    """
    if not questions:
        raise InputError("no questions to evaluate: the selection of traces is empty.")
    for group in questions:
        name = f"question {group.question.question_id!r} ({group.model})"
        if group.question.gold is None:
            raise InputError(
                f"accuracy needs gold answers, {name} has none: import the traces with them, "
                "or choose other data.datasets."
            )
        if len(group.traces) < n_traces:
            raise InputError(
                f"{name} has {len(group.traces)} traces, fewer than sweep.traces={n_traces}: "
                "lower it, or leave such questions out with sweep.skip_short=true."
            )


def unseen_questions(groups: Sequence[QuestionTraces], judge: Judge) -> list[QuestionTraces]:
    """The questions that were not used to fit ``judge``.

    Raises:
        InputError: If it has seen them all.
    """
    seen = judge.provenance.seen_questions
    unseen = [g for g in groups if question_hash(g.question.text) not in seen]
    if not unseen:
        raise InputError(
            f"judge {judge.provenance.name!r} was trained on all {len(groups)} questions of this "
            "selection: evaluate it on other traces."
        )
    return unseen
