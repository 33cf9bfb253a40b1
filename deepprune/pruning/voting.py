"""Votes over finished traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.types import NO_ANSWER, Vote


def plurality(
    answer_class: Sequence[int], voters: Iterable[int], weights: Sequence[float] | None = None
) -> Vote:
    """Return the answer class with the most votes.

    A trace without an answer does not vote. A tie goes to the class whose first voter was started
    first: traces are exchangeable, so this is a fair draw, and the same one every time.

    Args:
        answer_class: Class of each trace's answer, ``NO_ANSWER`` without one, shape ``(N,)``.
        voters: Indices of the traces that vote.
        weights: Weight of each voter, in the order of ``voters``; 1 each if not given.

    Returns:
        The vote; its ``answer_class`` is ``NO_ANSWER`` if no voter has an answer.
    """
    voters = tuple(map(int, voters))
    ballots = sorted(zip(voters, weights or [1.0] * len(voters), strict=True))
    totals: dict[int, float] = {}
    for trace, weight in ballots:  # in the order of start, so `max` meets the earliest class first
        answer = int(answer_class[trace])
        if answer != NO_ANSWER:
            totals[answer] = totals.get(answer, 0.0) + weight
    return Vote(max(totals, key=totals.__getitem__, default=NO_ANSWER), totals, voters)


def first_come(
    answer_class: Sequence[int], voters: Sequence[int], weights: Sequence[float] | None = None
) -> Vote:
    """Return the vote of traces in a given order, as that of finishing.

    As `plurality`, but a tie goes to the class whose first voter comes first in ``voters``.
    """
    numbers = range(len(voters))
    vote = plurality([answer_class[trace] for trace in voters], numbers, weights)
    return replace(vote, voters=tuple(voters))


def or_of_finished(vote: Vote, answer_class: Sequence[int], finished: Sequence[int]) -> Vote:
    """Return the vote, or that of all finished traces where no voter has an answer."""
    return vote if vote.weights else first_come(answer_class, finished)


def plurality_rows(answer_class: IntArray, weights: FloatArray) -> IntArray:
    """Return the winners of many votes at once, with the same rule for ties as `plurality`.

    Args:
        answer_class: Class of each trace's answer in the order of start, shape ``(G, N)``.
        weights: Weight of each trace, 0 for one that does not vote, shape ``(G, N)``.

    Returns:
        The winning classes, shape ``(G,)``.
    """
    n_rows = len(answer_class)
    weights = np.where(answer_class == NO_ANSWER, 0.0, weights)
    n_classes = int(answer_class.max(initial=NO_ANSWER)) + 1
    if n_classes == 0:
        return np.full(n_rows, NO_ANSWER)
    flat = np.arange(n_rows)[:, None] * n_classes + np.maximum(answer_class, 0)
    totals = np.bincount(flat.ravel(), weights.ravel(), minlength=n_rows * n_classes)
    mine = totals[flat]  # the total of each trace's class, (G, N)
    mine[weights == 0] = -1.0
    first = mine.argmax(1)  # the earliest of equals
    every = np.arange(n_rows)
    return np.where(mine[every, first] > 0, answer_class[every, first], NO_ANSWER)
