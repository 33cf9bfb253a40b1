"""Agreement of the forced answers of two traces; reads no text.

P: pairs, F: columns, n: distinct prefixes, M: the most checkpoints of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.types import NO_ANSWER, Prefix, TracePair
from deepprune.judge.features.overlaps import distinct_prefixes

NAMES = (
    "forced_latest_agree",
    "forced_latest_differ",
    "forced_agreement_last_3",
    "forced_agreement_all",
    "forced_similarity",
    *(
        f"forced_{fact}_{measure}"
        for fact in ("latest_in_other", "latest_run", "answered", "checkpoints")
        for measure in ("low", "high")
    ),
)
"""Names of the columns; ``low`` and ``high`` are the lower and the higher of the two prefixes."""

_PAIRS = 8192  # compared together, which bounds the memory


def columns(pairs: Sequence[TracePair]) -> FloatArray:
    """Compare the forced answers of pairs, finite, shape ``(P, F)``; symmetric.

    A checkpoint is the i-th forced answer of either trace. Only those up to the end of a prefix
    count, never the final answer, and an answer stands until the trace gives another: an attempt
    without an answer repeats the last one, and so does a trace whose attempts end earlier.

    - ``latest_agree`` and ``latest_differ``: 1 or 0; both 0 where a trace has no answer yet.
    - ``agreement``: share of the checkpoints, the last 3 or all, at which the answers are equal.
    - ``similarity``: chance that a checkpoint of each, drawn at random, have the same answer.
    - ``latest_in_other``: share of the other's checkpoints that have one's latest answer.
    - ``latest_run``: checkpoints in a row, up to the last, that have the latest answer.
    - ``answered``: share of the checkpoints with an answer of their own.
    - ``checkpoints``: their number. Where it is 0, so are all columns.
    """
    distinct, ends = distinct_prefixes(pairs)
    histories = _Histories(distinct)
    chunks = np.split(ends, range(_PAIRS, len(pairs), _PAIRS))
    return np.concatenate([histories.compare(chunk) for chunk in chunks])


class _Histories:
    """The answers of n prefixes that stand at their checkpoints, shape ``(n, M)``."""

    def __init__(self, prefixes: Sequence[Prefix]) -> None:
        given = [[one.answer_class for one in p.forced_answers] for p in prefixes]
        self._n = np.array([len(classes) for classes in given], dtype=np.int64)
        width = max(1, int(self._n.max(initial=0)))
        self._answer: IntArray = np.full((len(prefixes), width), NO_ANSWER, dtype=np.int64)
        for row, classes in enumerate(given):
            self._answer[row, : len(classes)] = classes
        self._answered = _share((self._answer != NO_ANSWER).sum(1), self._n)
        checkpoint = np.arange(width)
        latest = np.where(self._answer != NO_ANSWER, checkpoint, 0)
        self._answer = np.take_along_axis(self._answer, np.maximum.accumulate(latest, 1), 1)
        self._latest = self._answer[:, -1]
        differs = (self._answer != self._latest[:, None]) & (checkpoint < self._n[:, None])
        last_other = np.where(differs, checkpoint, -1).max(1)
        self._run = np.where(self._latest != NO_ANSWER, self._n - 1 - last_other, 0)
        self._shares = self._answer_shares(prefixes)

    def compare(self, ends: IntArray) -> FloatArray:
        """Compute the columns of pairs of rows, shape ``(P, 2)`` -> ``(P, F)``."""
        first, second = ends.T
        n = np.maximum(self._n[first], self._n[second])
        checkpoint = np.arange(self._answer.shape[1])
        same = self._answer[first] == self._answer[second]
        same &= (self._answer[first] != NO_ANSWER) & (checkpoint < n[:, None])
        has_answers = (self._latest[ends] != NO_ANSWER).all(1)
        agree = has_answers & (self._latest[first] == self._latest[second])
        columns = [
            agree,
            has_answers & ~agree,
            _share((same & (checkpoint >= n[:, None] - 3)).sum(1), np.minimum(n, 3)),
            _share(same.sum(1), n),
            self._shares[first].multiply(self._shares[second]).sum(axis=1),
        ]
        elsewhere = np.column_stack(
            [self._found(a, b) for a, b in ((first, second), (second, first))]
        )
        for fact in (elsewhere, self._run[ends], self._answered[ends], self._n[ends]):
            columns += [fact.min(1), fact.max(1)]
        return np.column_stack(columns).astype(np.float64)

    def _found(self, rows: IntArray, others: IntArray) -> FloatArray:
        """Return the share of the checkpoints of ``others`` with the latest answer of ``rows``."""
        latest = self._latest[rows, None]
        is_there = np.arange(self._answer.shape[1]) < self._n[others, None]
        return _share(
            ((self._answer[others] == latest) & is_there & (latest != NO_ANSWER)).sum(1),
            self._n[others],
        )

    def _answer_shares(self, prefixes: Sequence[Prefix]) -> csr_array:
        """Return the share of each prefix's checkpoints (rows) at each answer (columns)."""
        row, checkpoint = np.nonzero(
            (self._answer != NO_ANSWER) & (np.arange(self._answer.shape[1]) < self._n[:, None])
        )
        number: dict[tuple[str, str], int] = {}
        questions = [p.trace.question.key for p in prefixes]
        question = np.array([number.setdefault(q, len(number)) for q in questions], dtype=np.int64)
        answers = np.column_stack([question[row], self._answer[row, checkpoint]])
        names, column = np.unique(answers, axis=0, return_inverse=True)
        return csr_array(
            (1 / self._n[row], (row, column)), shape=(len(prefixes), max(1, len(names)))
        )


def _share(part: IntArray, whole: IntArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
