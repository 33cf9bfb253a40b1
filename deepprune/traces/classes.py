"""Equivalence classes of the final and the forced answers of a file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from deepprune.answers import EquivalenceChecker, answer_classes
from deepprune.core.types import NO_ANSWER, ForcedAnswer, Trace
from deepprune.traces.progress import OnProgress


def class_answers(
    given: Sequence[Trace],
    report: OnProgress = lambda stage, done, total: None,
    *,
    has_classes: bool = False,
    has_forced_classes: bool = False,
) -> tuple[list[Trace], dict[str, Any]]:
    """Class the answers of each question, over all its models, and compare them with the gold.

    The classes of final answers do not depend on the forced answers; class 0 is the most frequent
    final answer. All traces of a question must be there; no texts are read.

    Args:
        given: The traces.
        report: Called after each question.
        has_classes: Whether to keep the classes and the correctness of final answers.
        has_forced_classes: Whether to keep those of forced answers.

    Returns:
        The traces in their order, and the counts for `TraceStore.append`: ``conflicts`` (pairs of
        distinct final answers in one class that differ when compared) and ``timeouts`` (comparisons
        that timed out and count as different), with their questions in ``timed_out``.
    """
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i, trace in enumerate(given):
        groups[trace.question.key].append(i)
    classed = list(given)
    done = conflicts = failed = 0
    timed_out = []
    with EquivalenceChecker() as checker:
        for members in groups.values():
            traces = [given[i] for i in members]
            if not has_classes:
                traces, found = _class_final(traces, checker)
                conflicts += found
            if not has_forced_classes:
                traces = _class_forced_answers(traces, checker)
            traces = _judge_forced_answers(traces, checker)
            if checker.timeouts + checker.crashes > failed:
                failed = checker.timeouts + checker.crashes
                timed_out.append("/".join(traces[0].question.key))
            for i, trace in zip(members, traces, strict=True):
                classed[i] = trace
            done += len(members)
            report("answers", done, len(classed))
    return classed, {"conflicts": conflicts, "timeouts": failed, "timed_out": timed_out}


def _class_final(traces: Sequence[Trace], checker: EquivalenceChecker) -> tuple[list[Trace], int]:
    """Class the final answers of one question; return the traces and the conflicts."""
    answers = [trace.answer for trace in traces]
    classes, conflicts = answer_classes(answers, checker)
    verdicts = _verdicts(zip(classes, answers, strict=True), traces[0].question.gold, checker)
    classed = [
        replace(t, answer_class=k, is_correct=verdicts[k])
        for t, k in zip(traces, classes, strict=True)
    ]
    return classed, conflicts


def _verdicts(
    answers: Iterable[tuple[int, str | None]], gold: str | None, checker: EquivalenceChecker
) -> dict[int, bool | None]:
    """Return for each class whether its most frequent spelling is equivalent to the gold answer."""
    spellings: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for class_id, answer in answers:
        if answer is not None and class_id != NO_ANSWER:
            spellings[class_id][answer] += 1
    if gold is None:
        return {NO_ANSWER: None, **dict.fromkeys(spellings)}
    pairs = [(counts.most_common(1)[0][0], gold) for counts in spellings.values()]
    return {NO_ANSWER: False, **dict(zip(spellings, checker.same_many(pairs), strict=True))}


def _class_forced_answers(traces: Sequence[Trace], checker: EquivalenceChecker) -> list[Trace]:
    """Class the forced answers of one question.

    A forced answer gets the class of the most frequent final answer that it is equal to. The others
    are classed among themselves, with numbers after those of the final answers.
    """
    given = [p.answer for trace in traces for p in trace.forced_answers if p.answer is not None]
    if not given:
        return list(traces)
    finals = Counter(
        (trace.answer, trace.answer_class)
        for trace in traces
        if trace.answer is not None and trace.answer_class != NO_ANSWER
    )
    class_of: dict[str, int] = {}
    for (answer, class_id), _ in finals.most_common():
        class_of.setdefault(answer, class_id)
    beyond = 1 + max(class_of.values(), default=NO_ANSWER)
    pairs = [
        (forced, answer)
        for forced in dict.fromkeys(given)
        if forced not in class_of
        for answer in class_of
    ]
    for (forced, answer), is_same in zip(pairs, checker.same_many(pairs), strict=True):
        if is_same:
            class_of.setdefault(forced, class_of[answer])
    others = [forced for forced in given if forced not in class_of]
    for forced, class_id in zip(others, answer_classes(others, checker)[0], strict=True):
        class_of[forced] = beyond + class_id

    def classed(p: ForcedAnswer) -> ForcedAnswer:
        class_id = NO_ANSWER if p.answer is None else class_of[p.answer]
        return replace(p, answer_class=class_id)

    return [replace(t, forced_answers=tuple(map(classed, t.forced_answers))) for t in traces]


def _judge_forced_answers(traces: Sequence[Trace], checker: EquivalenceChecker) -> list[Trace]:
    """Compare the forced answers of one question with the gold answer.

    Those in the class of a final answer inherit its correctness.
    """
    if not any(trace.forced_answers for trace in traces):
        return list(traces)
    known: dict[int, bool | None] = {}
    for trace in traces:
        if trace.answer is not None and trace.answer_class != NO_ANSWER:
            known.setdefault(trace.answer_class, trace.is_correct)
    given = [p for trace in traces for p in trace.forced_answers if p.answer is not None]
    for forced in given:
        if forced.is_correct is not None:
            known.setdefault(forced.answer_class, forced.is_correct)
    new = [(p.answer_class, p.answer) for p in given if p.answer_class not in known]
    known |= _verdicts(new, traces[0].question.gold, checker)

    def judged(p: ForcedAnswer) -> ForcedAnswer:
        return replace(p, is_correct=known[NO_ANSWER if p.answer is None else p.answer_class])

    return [replace(t, forced_answers=tuple(map(judged, t.forced_answers))) for t in traces]
