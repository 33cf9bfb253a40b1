"""Runs of policies that read final answers alone, many orders of the traces at once.

A policy's ``at_once`` makes the decisions that its ``run`` makes on a replay, as arrays over runs:
a sweep has thousands of them per question. Tests compare the two.

R: orders (runs), N: traces, C: answer classes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from deepprune.core.protocols import BoolArray, FloatArray, IntArray
from deepprune.core.types import NO_ANSWER
from deepprune.pruning.voting import plurality_rows


class Runs(NamedTuple):
    """R runs; traces are in the order of their start.

    Attributes:
        starts: Time at which each trace starts, in tokens; 0 for one that does not, ``(R, N)``.
        n_tokens: Tokens that it generates, ``(R, N)``.
        votes: Whether it votes, ``(R, N)``.
        winner: Answer class that wins, ``(R,)``.
    """

    starts: IntArray
    n_tokens: IntArray
    votes: BoolArray
    winner: IntArray


@runtime_checkable
class AtOnce(Protocol):
    """A policy that can decide many runs at once."""

    def at_once(self, lengths: IntArray, answers: IntArray, mean_length: float | None) -> Runs:
        """Decide R runs on whole traces.

        Args:
            lengths: Tokens of the traces in the order of their start, shape ``(R, N)``.
            answers: Classes of their final answers, shape ``(R, N)``.
            mean_length: See `Evidence.mean_length`.
        """


def in_waves(
    lengths: IntArray, answers: IntArray, wave: int, first: IntArray, last: IntArray
) -> Runs:
    """Return runs whose traces start in waves, each after the end of the one before.

    Args:
        lengths: See `AtOnce`.
        answers: See `AtOnce`.
        wave: Traces of a wave.
        first: The first trace that votes, shape ``(R,)``.
        last: The number of traces that start, shape ``(R,)``.
    """
    n = lengths.shape[1]
    number = np.arange(n)
    n_tokens = np.where(number < last[:, None], lengths, 0)
    longest = np.maximum.reduceat(n_tokens, np.arange(0, n, wave), axis=1)
    begins = np.cumsum(longest, axis=1) - longest
    votes = (number >= first[:, None]) & (number < last[:, None])
    starts = np.where(n_tokens > 0, begins[:, number // wave], 0)
    return Runs(starts, n_tokens, votes, plurality_rows(answers, votes.astype(np.float64)))


def top_two(counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the two highest counts of each row, ``(R, C)`` -> ``(R,)`` and ``(R,)``."""
    padded = np.concatenate((counts, np.zeros((len(counts), 2))), axis=1)
    ordered = np.partition(padded, -2, axis=1)
    return ordered[:, -1], ordered[:, -2]


def one_hot(answers: IntArray) -> FloatArray:
    """Return each answer as a row of votes, none for a missing one, ``(...)`` -> ``(..., C)``."""
    classes = np.arange(max(1, int(answers.max(initial=NO_ANSWER)) + 1))
    return np.asarray(answers[..., None] == classes, dtype=np.float64)


def first_come_rows(answers: IntArray, rank: IntArray, votes: BoolArray) -> IntArray:
    """Return the winners of `voting.first_come` with voters ordered by rank, shape ``(R,)``.

    Args:
        answers: Classes of the answers, shape ``(R, N)``.
        rank: Order of the voters, shape ``(R, N)``.
        votes: Whether a trace votes, shape ``(R, N)``.
    """
    order = rank.argsort(1, kind="stable")
    weights = np.take_along_axis(votes, order, 1).astype(np.float64)
    return plurality_rows(np.take_along_axis(answers, order, 1), weights)
