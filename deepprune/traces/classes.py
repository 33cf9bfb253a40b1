"""Equivalence classes of what the traces of a file answer, at their ends and at their probes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepprune.answers import EquivalenceChecker, answer_classes, is_correct
from deepprune.traces.formats import Record, SourceFile
from deepprune.traces.progress import OnProgress
from deepprune.types import NO_ANSWER


@dataclass(frozen=True, slots=True)
class ClassedRecords:
    """Records with the classes of their answers and of their probes' answers.

    Attributes:
        records: The records, in the order given.
        conflicts: Pairs of distinct final answers in one class that, compared directly, differ.
        timeouts: Comparisons that were given up and so counted as different.
    """

    records: list[Record]
    conflicts: int
    timeouts: int


def class_answers(source: SourceFile, report: OnProgress) -> ClassedRecords:
    """Class the answers of each question, over all its models, and compare them with the gold.

    Classes that the file has are kept. Final answers are classed without regard to the probes, so
    class 0 is the most frequent final answer, and it is the same with and without probes.
    """
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i, record in enumerate(source.records):
        groups[record.question.dataset, record.question.question_id].append(i)
    classed = list(source.records)
    done = conflicts = 0
    with EquivalenceChecker() as checker:
        for members in groups.values():
            records = [source.records[i] for i in members]
            if not source.has_classes:
                records, found = _class_final(records, checker)
                conflicts += found
            if not source.has_probe_classes:
                records = _class_probes(records, checker)
            for i, record in zip(members, records, strict=True):
                classed[i] = record
            done += len(members)
            report("answers", done, len(classed))
        return ClassedRecords(classed, conflicts, checker.timeouts + checker.crashes)


def _class_final(
    records: Sequence[Record], checker: EquivalenceChecker
) -> tuple[list[Record], int]:
    """The records of one question with their final answers classed, and the conflicts."""
    found = answer_classes([record.answer for record in records], checker)
    gold = records[0].question.gold
    spellings: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for record, class_id in zip(records, found.class_ids, strict=True):
        if record.answer is not None:
            spellings[class_id][record.answer] += 1
    correct = {  # the classes whose most frequent spelling is equivalent to the gold answer
        class_id
        for class_id, counts in spellings.items()
        if gold is not None and is_correct(counts.most_common(1)[0][0], gold, checker)
    }
    classed = [
        replace(r, answer_class=k, is_correct=None if gold is None else k in correct)
        for r, k in zip(records, found.class_ids, strict=True)
    ]
    return classed, found.conflicts


def _class_probes(records: Sequence[Record], checker: EquivalenceChecker) -> list[Record]:
    """The records of one question with their probes classed.

    A probe has the class of a final answer that it is equal to (of several the most frequent);
    those equal to none are classed among themselves, with numbers beyond the final answers'.
    """
    probed = [p.answer for record in records for p in record.probes if p.answer is not None]
    if not probed:
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
        (probe, answer)
        for probe in dict.fromkeys(probed)
        if probe not in class_of
        for answer in class_of
    ]
    for (probe, answer), is_same in zip(pairs, checker.same_many(pairs), strict=True):
        if is_same:
            class_of.setdefault(probe, class_of[answer])
    others = [probe for probe in probed if probe not in class_of]
    for probe, class_id in zip(others, answer_classes(others, checker).class_ids, strict=True):
        class_of[probe] = beyond + class_id
    return [
        replace(
            record,
            probes=tuple(
                replace(p, answer_class=NO_ANSWER if p.answer is None else class_of[p.answer])
                for p in record.probes
            ),
        )
        for record in records
    ]
