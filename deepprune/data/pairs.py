"""Pairs of prefixes of one question, with the label that both traces end in the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.protocols import IntArray
from deepprune.core.seeding import generator
from deepprune.core.types import (
    NO_ANSWER,
    PrefixRule,
    QuestionTraces,
    TracePair,
    among_peers,
)
from deepprune.data.prefixes import make_prefix


def build_pairs(
    group: QuestionTraces,
    rule: PrefixRule,
    *,
    max_pairs: int | None = None,
    n_candidates: int = 1,
    only_unfinished: bool = False,
    answer_style: str | Mapping[str, str] = "auto",
    seed: int = 0,
) -> list[TracePair]:
    """Return the unordered pairs of a question's traces with an answer, or a sample of them.

    The sample and the order within a pair depend only on ``seed`` and the question: adding or
    removing other questions changes nothing.

    Args:
        group: The traces of one model for one question.
        rule: Where their prefixes end.
        max_pairs: Draw at most this many, without replacement; ``None`` keeps all.
        n_candidates: Above 1, draw representatives, and this many candidates of each, in place of
            single pairs; as many pairs in total, each as likely as before.
        only_unfinished: Keep only pairs where neither prefix has reached its answer.
        answer_style: One of ``answers.extract.AnswerStyle``, or one per data set with ``default``
            for all others.
        seed: Decides the sample and the order within a pair.

    Returns:
        Pairs in the order of their traces, or of the representatives as drawn; empty if fewer than
        two traces qualify. The peers of a prefix are those of all traces of the group, including
        traces without an answer.

    Raises:
        ValueError: If ``max_pairs`` is below 1.
    """
    if max_pairs is not None and max_pairs < 1:
        raise ValueError(f"max_pairs must be >= 1 or None, got {max_pairs}.")
    question = group.question
    if not isinstance(answer_style, str):
        answer_style = answer_style.get(question.dataset, answer_style["default"])
    peers = among_peers([make_prefix(trace, rule, answer_style) for trace in group.traces])
    prefixes = [prefix for prefix in peers if prefix.trace.answer_class != NO_ANSWER]
    if only_unfinished:
        prefixes = [prefix for prefix in prefixes if not prefix.is_finished]
    first, second = np.triu_indices(len(prefixes), k=1)
    rng = generator(seed, "pairs", *group.key)
    if n_candidates > 1:
        n_pairs = len(first) if max_pairs is None else min(max_pairs, len(first))
        drawn = _stars(len(prefixes), n_candidates, n_pairs, rng)
        return [TracePair(prefixes[i], prefixes[j]) for i, j in drawn]
    if max_pairs is not None and len(first) > max_pairs:
        chosen = np.sort(rng.choice(len(first), max_pairs, replace=False))
        first, second = first[chosen], second[chosen]
    swapped = rng.random(len(first)) < 0.5
    pairs = []
    for i, j, swap in zip(first.tolist(), second.tolist(), swapped.tolist(), strict=True):
        a, b = (prefixes[j], prefixes[i]) if swap else (prefixes[i], prefixes[j])
        pairs.append(TracePair(a, b))
    return pairs


def _stars(
    n: int, n_candidates: int, n_pairs: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw representatives of ``n`` traces in turn, and candidates not yet paired with each."""
    is_left = ~np.eye(n, dtype=np.bool_)
    drawn: list[tuple[int, int]] = []
    order = rng.permutation(n).tolist()
    while len(drawn) < n_pairs:
        for i in order:
            left = np.flatnonzero(is_left[i])
            size = min(n_candidates, len(left), n_pairs - len(drawn))
            chosen = rng.choice(left, size, replace=False) if size else left[:0]
            is_left[i, chosen] = is_left[chosen, i] = False
            drawn += [(i, j) for j in chosen.tolist()]
    return drawn


def build_part(
    part: str, groups: Sequence[QuestionTraces], rule: PrefixRule, **settings: Any
) -> list[TracePair]:
    """Return the pairs of all questions of a part; ``settings`` are those of ``build_pairs``.

    Raises:
        InputError: If there are none, or the part is ``"train"`` and all have the same label.
    """
    pairs = [pair for group in groups for pair in build_pairs(group, rule, **settings)]
    if not pairs:
        raise InputError(
            f"the {part} part needs pairs, got none from {len(groups)} questions with {rule}: use "
            "a shorter prefix"
            + (" or only_unfinished=False." if part == "train" else " or another split.")
        )
    labels = labels_of(pairs)
    if part == "train" and labels.min() == labels.max():
        raise InputError(
            f"training needs pairs of both classes, got {len(pairs)} with label {labels[0]}: "
            "add questions."
        )
    return pairs


def labels_of(pairs: Sequence[TracePair]) -> IntArray:
    """Return the labels, shape ``(len(pairs),)``.

    Raises:
        ValueError: If a pair has no label.
    """
    labels = [pair.label for pair in pairs if pair.label is not None]
    if len(labels) < len(pairs):
        raise ValueError(f"pairs need labels, got {len(pairs) - len(labels)} without.")
    return np.array(labels, dtype=np.int64)


def same_share(groups: Sequence[QuestionTraces], max_pairs: int | None = None) -> float:
    """Return the expected share of label 1 in ``build_pairs``; ``nan`` without pairs."""
    n_pairs = n_same = 0.0
    for group in groups:
        sizes = Counter(t.answer_class for t in group.traces if t.answer_class != NO_ANSWER)
        n_all = comb(sizes.total(), 2)
        if n_all:
            drawn = n_all if max_pairs is None else min(n_all, max_pairs)
            n_pairs += drawn
            n_same += drawn * sum(comb(n, 2) for n in sizes.values()) / n_all
    return n_same / n_pairs if n_pairs else float("nan")


def questions_of(pairs: Sequence[TracePair]) -> list[str]:
    """Return a name of each pair's question, unique in the store."""
    questions = (pair.first.trace.question for pair in pairs)
    return [f"{question.dataset}\n{question.question_id}" for question in questions]
