"""Which rows of which part belong to which question and model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from deepprune.core.errors import InputError


class GroupKey(NamedTuple):
    """The traces that one model generated for one question; the order of a store's groups."""

    dataset: str
    question_id: str
    model: str


class IndexRow(NamedTuple):
    """What the index needs of a row."""

    key: GroupKey
    sample_id: int
    text: str  # of the question
    gold: str | None


class Rows(NamedTuple):
    """Consecutive rows of one part."""

    part: int
    start: int
    stop: int


@dataclass(slots=True)
class StoreIndex:
    """Groups and questions over all parts of a store, read from its small columns."""

    groups: dict[GroupKey, list[Rows]] = field(default_factory=dict)
    samples: dict[GroupKey, set[int]] = field(default_factory=dict)
    questions: dict[tuple[str, str], tuple[str, str | None]] = field(default_factory=dict)

    def check(self, rows: Iterable[IndexRow]) -> None:
        """Hold new rows against what is there, and against each other.

        Raises:
            InputError: If a ``(dataset, question_id, model, sample_id)`` appears twice, or a
                question has two texts or two gold answers.
        """
        new: set[tuple[GroupKey, int]] = set()
        questions: dict[tuple[str, str], tuple[str, str | None]] = {}
        for row in rows:
            key = row.key
            if row.sample_id in self.samples.get(key, ()) or (key, row.sample_id) in new:
                raise InputError(
                    "(dataset, question_id, model, sample_id) must be unique, but "
                    f"{(*key, row.sample_id)} appears twice."
                )
            new.add((key, row.sample_id))
            name = (key.dataset, key.question_id)
            known = self.questions.get(name) or questions.setdefault(name, (row.text, row.gold))
            if known != (row.text, row.gold):
                differs = 0 if known[0] != row.text else 1
                what = ("texts", "gold answers")[differs]
                old, other = known[differs], (row.text, row.gold)[differs]
                raise InputError(
                    f"a question must have one text and one gold answer, but {'/'.join(name)} has "
                    f"two {what}: {_short(old)} and {_short(other)}. Give them two question_ids."
                )

    def add(self, part: int, rows: Sequence[IndexRow]) -> None:
        """Enter the rows of a part; equal keys must stand together, as they do in a sorted part."""
        start = 0
        for key, group in groupby(rows, key=lambda row: row.key):
            members = list(group)
            self.groups.setdefault(key, []).append(Rows(part, start, start + len(members)))
            self.samples.setdefault(key, set()).update(row.sample_id for row in members)
            first = members[0]
            self.questions.setdefault((key.dataset, key.question_id), (first.text, first.gold))
            start += len(members)

    def select(
        self,
        models: Iterable[str] | None,
        datasets: Iterable[str] | None,
        min_traces: int,
        limit_questions: int | None,
    ) -> list[GroupKey]:
        """Keys of the wanted groups, sorted.

        Raises:
            InputError: If a model or dataset is unknown, or nothing is left.
        """
        if not self.groups:
            raise InputError("the trace store is empty: it has no traces yet.")
        keys = sorted(self.groups)
        wanted_models = _known(models, "model", {key.model for key in keys})
        wanted_datasets = _known(datasets, "dataset", {key.dataset for key in keys})
        keys = [k for k in keys if k.model in wanted_models and k.dataset in wanted_datasets]
        most = max((len(self.samples[key]) for key in keys), default=0)
        keys = [key for key in keys if len(self.samples[key]) >= min_traces]
        if limit_questions is not None:
            first = sorted({key[:2] for key in keys})[:limit_questions]
            keys = [key for key in keys if key[:2] in set(first)]
        if not keys:
            raise InputError(
                f"no question is left: models {sorted(wanted_models)}, datasets "
                f"{sorted(wanted_datasets)}, min_traces={min_traces} (the most that one has is "
                f"{most}), limit_questions={limit_questions}."
            )
        return keys


def _known(wanted: Iterable[str] | None, what: str, known: set[str]) -> set[str]:
    if wanted is None:
        return known
    names = {wanted} if isinstance(wanted, str) else set(wanted)
    if unknown := names - known:
        raise InputError(
            f"unknown {what} {sorted(unknown)[0]!r}; the trace store has: "
            f"{', '.join(sorted(known))}."
        )
    return names


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 60 else f"{text[:60]}...")
