"""Index of a store: the rows of each question and model, over all parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from deepprune.core.errors import InputError

GroupKey = tuple[str, str, str]
"""``(dataset, question_id, model)``; groups are sorted by it."""


IndexRow = tuple[GroupKey, int, str, str | None]
"""Key, sample_id, text of the question and gold answer of a trace."""


@dataclass(slots=True)
class StoreIndex:
    """Groups and questions over all parts of a store.

    Attributes:
        groups: Number of a part and the rows there, for each part that has the group.
        samples: The sample_ids of each group.
        questions: Text and gold answer by dataset and question_id.
    """

    groups: dict[GroupKey, list[tuple[int, slice]]] = field(default_factory=dict)
    samples: dict[GroupKey, set[int]] = field(default_factory=dict)
    questions: dict[tuple[str, str], tuple[str, str | None]] = field(default_factory=dict)

    def check(self, rows: Iterable[IndexRow]) -> None:
        """Check new rows against the index and each other.

        Raises:
            InputError: If a ``(dataset, question_id, model, sample_id)`` appears twice, or a
                question has two texts or two gold answers.
        """
        new: set[tuple[GroupKey, int]] = set()
        questions: dict[tuple[str, str], tuple[str, str | None]] = {}
        for key, sample_id, text, gold in rows:
            if sample_id in self.samples.get(key, ()) or (key, sample_id) in new:
                raise InputError(
                    "(dataset, question_id, model, sample_id) must be unique, but "
                    f"{(*key, sample_id)} appears twice."
                )
            new.add((key, sample_id))
            name = key[:2]
            known = self.questions.get(name) or questions.setdefault(name, (text, gold))
            if known != (text, gold):
                differs = 0 if known[0] != text else 1
                what = ("texts", "gold answers")[differs]
                old, other = known[differs], (text, gold)[differs]
                raise InputError(
                    f"a question must have one text and one gold answer, but {'/'.join(name)} has "
                    f"two {what}: {_short(old)} and {_short(other)}. Give them two question_ids."
                )

    def add(self, part: int, rows: Sequence[IndexRow]) -> None:
        """Add the rows of a part, sorted by key."""
        start = 0
        for key, group in groupby(rows, key=lambda row: row[0]):
            members = list(group)
            self.groups.setdefault(key, []).append((part, slice(start, start + len(members))))
            self.samples.setdefault(key, set()).update(sample_id for _, sample_id, *_ in members)
            self.questions.setdefault(key[:2], members[0][2:])
            start += len(members)


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 60 else f"{text[:60]}...")
