"""Selection and checks of the questions of a sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from deepprune.core.errors import InputError
from deepprune.core.protocols import Need
from deepprune.core.seeding import generator
from deepprune.core.types import QuestionRef, QuestionTraces
from deepprune.data.splits import question_hash
from deepprune.evaluation.grid import Point
from deepprune.judge.base import Judge


def select_questions(
    refs: Sequence[QuestionRef],
    *,
    n_questions: int | None,
    n_traces: int | None,
    skip_short: bool,
    seed: int,
) -> tuple[list[QuestionRef], int]:
    """Choose questions, and N.

    Args:
        refs: The questions of the store.
        n_questions: Number of questions drawn by the seed, kept in order; ``None`` for all.
        n_traces: N; ``None`` for as many as every question has.
        skip_short: Skip questions with fewer than N traces.
        seed: Decides the draw.

    Returns:
        The questions and N.

    Raises:
        InputError: If N is below 2, or `check_questions` raises.
    """
    if n_traces is None:
        shortest = min(refs, key=lambda ref: ref.n_traces)
        n_traces = shortest.n_traces
        way_out = "set sweep.traces and sweep.skip_short=true to leave such questions out"
        where = f" for question {shortest.question.question_id!r} ({shortest.model}): {way_out}"
    else:
        where = " for sweep.traces"
    if n_traces < 2:
        raise InputError(f"a vote needs at least 2 traces a question, got {n_traces}{where}.")
    if skip_short:
        refs = [ref for ref in refs if ref.n_traces >= n_traces]
        if not refs:
            raise InputError(f"no question has {n_traces} traces: lower sweep.traces.")
    if n_questions is not None:
        if n_questions < 1:
            raise InputError(f"sweep.questions must be at least 1, got {n_questions}.")
        drawn = generator(seed, "questions").permutation(len(refs))[:n_questions]
        refs = [refs[i] for i in sorted(drawn)]
    check_questions(refs, n_traces)
    return list(refs), n_traces


def check_questions(questions: Sequence[QuestionRef], n_traces: int) -> None:
    """Check that there are questions, all with a gold answer and at least N traces.

    Raises:
        InputError: If not.
    """
    if not questions:
        raise InputError("no questions to evaluate: the selection of traces is empty.")
    for ref in questions:
        name = f"question {ref.question.question_id!r} ({ref.model})"
        if ref.question.gold is None:
            raise InputError(
                f"accuracy needs gold answers, {name} has none: import the traces with them, "
                "or choose other data.datasets."
            )
        if ref.n_traces < n_traces:
            raise InputError(
                f"{name} has {ref.n_traces} traces, fewer than sweep.traces={n_traces}: "
                "lower it, or leave such questions out with sweep.skip_short=true."
            )


def unmet_needs(needs: Iterable[Need], group: QuestionTraces) -> list[str]:
    """Return the needs that the traces of ``group`` do not meet, in words."""
    traces = group.traces
    in_words = {
        Need.TEXT: (any(t.text for t in traces), "the text of the traces"),
        Need.FORCED_ANSWERS: (any(t.forced_answers for t in traces), "recorded forced answers"),
        Need.CONFIDENCE: (all(t.token_confidence is not None for t in traces), "token confidences"),
    }
    return [words for is_met, words in (in_words[need] for need in sorted(needs)) if not is_met]


def check_needs(
    points: Sequence[Point], group: QuestionTraces, judges: Mapping[str, frozenset[Need]]
) -> None:
    """Check that the first question's traces have what policies and judges need.

    Args:
        points: The grid.
        group: The traces.
        judges: Needs of each judge of the points.

    Raises:
        InputError: If something is missing.
    """
    for name, judge, needs in dict.fromkeys(
        (point.policy.name, point.judge, _all_needs(point, judges)) for point in points
    ):
        if missing := unmet_needs(needs, group):
            asker = name if judge is None else f"{name} with judge {judge}"
            raise InputError(
                f"{asker} needs {' and '.join(missing)}, which these traces do not have: choose "
                "other policies with pruning=[...], another judge=NAME, or other traces."
            )


def with_needs_met(
    points: Sequence[Point], group: QuestionTraces, judges: Mapping[str, frozenset[Need]]
) -> list[Point]:
    """Return the points whose needs these traces meet, see `check_needs`."""
    return [p for p in points if not unmet_needs(_all_needs(p, judges), group)]


def _all_needs(point: Point, judges: Mapping[str, frozenset[Need]]) -> frozenset[Need]:
    """Return the needs of a point's policy and of its judge."""
    of_judge = frozenset() if point.judge is None else judges[point.judge]
    return point.policy.needs - {Need.JUDGE} | of_judge


def check_judge_needs(needs: frozenset[Need], groups: Sequence[QuestionTraces]) -> None:
    """Check that the traces for fitting and testing a judge have what it reads.

    Raises:
        InputError: If something is missing.
    """
    for group in groups:
        if missing := unmet_needs(needs, group):
            raise InputError(
                f"this judge needs {' and '.join(missing)}, which question "
                f"{group.question.question_id!r} ({group.model}) does not have: choose another "
                "model=..., or other traces."
            )


def unseen_questions(refs: Sequence[QuestionRef], judges: Collection[Judge]) -> list[QuestionRef]:
    """Return the questions that were not used to train any of the judges.

    Raises:
        InputError: If they have seen them all.
    """
    seen: frozenset[str] = frozenset().union(*(j.provenance.seen_questions for j in judges))
    unseen = [ref for ref in refs if question_hash(ref.question.text) not in seen]
    if not unseen:
        names = ", ".join(j.provenance.name for j in judges if j.provenance.seen_questions)
        raise InputError(
            f"judge {names} was trained on all {len(refs)} questions of this selection: evaluate "
            "it on other traces."
        )
    return unseen
