"""Equivalence classes of the final and the forced answers of a file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from deepprune.answers import EquivalenceChecker, answer_classes
from deepprune.core.types import NO_ANSWER, ForcedAnswer, Trace
from deepprune.traces.formats import Record, SourceFile
from deepprune.traces.progress import OnProgress

Item = TypeVar("Item")


class Classed(NamedTuple, Generic[Item]):
    """Traces or records, in the order given, with the classes of their final and forced answers."""

    items: list[Item]
    conflicts: int  # pairs of distinct final answers in one class that differ when compared
    timeouts: int  # comparisons that timed out and count as different


def class_answers(source: SourceFile, report: OnProgress) -> Classed[Record]:
    """Class the answers of each question, over all its models, and compare them with the gold.

    Classes and correctness from the file are kept. The classes of final answers do not depend on
    the forced answers; class 0 is the most frequent final answer.
    """
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i, record in enumerate(source.records):
        groups[record.question.key].append(i)
    classed = list(source.records)
    done = conflicts = 0
    with EquivalenceChecker() as checker:
        for members in groups.values():
            records = [source.records[i] for i in members]
            if not source.has_classes:
                records, found = _class_final(records, checker)
                conflicts += found
            if not source.has_forced_classes:
                records = _class_forced_answers(records, checker)
            records = _judge_forced_answers(records, checker)
            for i, record in zip(members, records, strict=True):
                classed[i] = record
            done += len(members)
            report("answers", done, len(classed))
        return Classed(classed, conflicts, checker.timeouts + checker.crashes)


def class_traces(traces: Sequence[Trace]) -> Classed[Trace]:
    """Class the answers of generated traces, which must be all traces of their questions."""
    records = [
        Record(
            t.question,
            t.model,
            t.sample_id,
            t.text,
            answer=t.answer,
            forced_answers=t.forced_answers,
        )
        for t in traces
    ]
    found = class_answers(SourceFile("generated", records), lambda stage, done, total: None)
    classed = [
        replace(
            trace,
            answer_class=NO_ANSWER if record.answer_class is None else record.answer_class,
            is_correct=record.is_correct,
            forced_answers=record.forced_answers,
        )
        for trace, record in zip(traces, found.items, strict=True)
    ]
    return Classed(classed, found.conflicts, found.timeouts)


def _class_final(
    records: Sequence[Record], checker: EquivalenceChecker
) -> tuple[list[Record], int]:
    """Class the final answers of one question; return the records and the conflicts."""
    found = answer_classes([record.answer for record in records], checker)
    gold = records[0].question.gold
    answers = [(k, r.answer) for r, k in zip(records, found.class_ids, strict=True)]
    verdicts = _verdicts(answers, gold, checker)
    classed = [
        replace(r, answer_class=k, is_correct=verdicts[k])
        for r, k in zip(records, found.class_ids, strict=True)
    ]
    return classed, found.conflicts


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


def _class_forced_answers(records: Sequence[Record], checker: EquivalenceChecker) -> list[Record]:
    """Class the forced answers of one question.

    A forced answer gets the class of the most frequent final answer that it is equal to. The others
    are classed among themselves, with numbers after those of the final answers.
    """
    given = [p.answer for record in records for p in record.forced_answers if p.answer is not None]
    if not given:
        return list(records)
    finals = Counter(
        (record.answer, record.answer_class)
        for record in records
        if record.answer is not None and record.answer_class is not None
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
    for forced, class_id in zip(others, answer_classes(others, checker).class_ids, strict=True):
        class_of[forced] = beyond + class_id
    return [
        replace(
            record,
            forced_answers=tuple(
                ForcedAnswer(
                    p.n_tokens, p.answer, NO_ANSWER if p.answer is None else class_of[p.answer]
                )
                for p in record.forced_answers
            ),
        )
        for record in records
    ]


def _judge_forced_answers(records: Sequence[Record], checker: EquivalenceChecker) -> list[Record]:
    """Compare the forced answers of one question with the gold answer.

    Those in the class of a final answer inherit its correctness.
    """
    known: dict[int, bool | None] = {}
    for record in records:
        if record.answer is not None and record.answer_class is not None:
            known.setdefault(record.answer_class, record.is_correct)
    given = [p for record in records for p in record.forced_answers if p.answer is not None]
    for forced in given:
        if forced.is_correct is not None:
            known.setdefault(forced.answer_class, forced.is_correct)
    new = [(p.answer_class, p.answer) for p in given if p.answer_class not in known]
    known |= _verdicts(new, records[0].question.gold, checker)
    return [
        replace(
            record,
            forced_answers=tuple(
                replace(p, is_correct=known[NO_ANSWER if p.answer is None else p.answer_class])
                for p in record.forced_answers
            ),
        )
        for record in records
    ]
