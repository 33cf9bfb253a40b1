"""Votes over finished traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deepprune.types import NO_ANSWER, Vote


def plurality(
    answer_class: Sequence[int], voters: Iterable[int], weights: Sequence[float] | None = None
) -> Vote:
    """The answer class with the most votes.

    A trace without an answer does not vote. A tie goes to the class whose first voter was started
    first: traces are exchangeable, so this is a fair draw, and the same one every time.

    Args:
        answer_class: Class of each trace's answer, ``NO_ANSWER`` without one, shape ``(N,)``.
        voters: Indices of the traces that vote.
        weights: Weight of each voter, in the order of ``voters``; 1 each if not given.

    Returns:
        The vote; its ``answer_class`` is ``NO_ANSWER`` where no voter has an answer.
    """
    voters = tuple(voters)
    ballots = sorted(zip(voters, weights or [1.0] * len(voters), strict=True))
    totals: dict[int, float] = {}
    for trace, weight in ballots:  # in the order of start, so `max` meets the earliest class first
        answer = int(answer_class[trace])
        if answer != NO_ANSWER:
            totals[answer] = totals.get(answer, 0.0) + weight
    return Vote(max(totals, key=totals.__getitem__, default=NO_ANSWER), totals, voters)
