"""Rules that say where a prefix ends, and cutting traces by them."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from deepprune.answers.extract import contains_answer
from deepprune.core.types import Prefix, PrefixRule, Trace

REASONING_WORDS = (
    "wait",
    "thus",
    "since",
    "so",
    "therefore",
    "hence",
    "because",
    "but",
    "however",
    "then",
    "alternatively",
    "hmm",
    "first",
    "next",
    "now",
    "let",
)
"""Words that mark a step of reasoning.

The paper (arXiv 2510.08483) lists "wait", "thus", "since", "etc."; the other words are our choice,
fixed so that runs can be compared.
"""


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """The first ``k`` tokens; the paper compares 300, 500 and 700."""

    kind: ClassVar[str] = "first_tokens"
    k: int

    def __post_init__(self) -> None:
        _check_count(self.k)

    def cut(self, text: str, token_end: Sequence[int]) -> int:
        return min(self.k, len(token_end))


@dataclass(frozen=True)
class ReasoningWords:
    """The tokens up to the ``k``-th reasoning word; the paper compares 15, 25 and 35.

    Counts whole words, ignoring case. If the text has fewer, the prefix is the whole text; a trace
    that is still being generated then continues.

    Attributes:
        k: Number of reasoning words in the prefix, >= 1.
        words: The words to count.

    Raises:
        ValueError: If ``k`` is below 1 or ``words`` is empty.
    """

    kind: ClassVar[str] = "reasoning_words"
    k: int
    words: Sequence[str] = REASONING_WORDS

    def __post_init__(self) -> None:
        _check_count(self.k)
        if not self.words or not all(self.words):
            raise ValueError(f"words must be a list of non-empty words, got {self.words!r}.")
        object.__setattr__(self, "words", tuple(self.words))  # hashable; YAML gives a list

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        alternatives = "|".join(map(re.escape, self.words))
        return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)

    def cut(self, text: str, token_end: Sequence[int]) -> int:
        for count, match in enumerate(self._pattern.finditer(text), start=1):
            if count == self.k:
                return min(bisect_left(token_end, match.end()) + 1, len(token_end))
        return len(token_end)


@dataclass(frozen=True, slots=True)
class Fraction:
    """The fraction ``k`` of a trace's tokens, rounded up.

    For analysis only: it needs the length of the finished trace, which is unknown during
    generation. Policies must not use it.

    Raises:
        ValueError: If ``k`` lies outside (0, 1].
    """

    kind: ClassVar[str] = "fraction"
    k: float

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1:
            raise ValueError(
                f"a fraction must lie in (0, 1], got {self.k}. Did you pass a percentage?"
            )

    def cut(self, text: str, token_end: Sequence[int]) -> int:
        return min(math.ceil(self.k * len(token_end)), len(token_end))


def make_prefix(trace: Trace, rule: PrefixRule, answer_style: str = "auto") -> Prefix:
    """Cut a trace; the prefix is finished if it is the whole trace or states the final answer.

    ``answer_style`` is one of ``answers.extract.AnswerStyle``.
    """
    n_tokens = min(rule.cut(trace.text, trace.token_end), trace.n_tokens)
    prefix = Prefix(trace, n_tokens, is_finished=n_tokens == trace.n_tokens)
    if not prefix.is_finished and contains_answer(prefix.text, answer_style):
        return replace(prefix, is_finished=True)
    return prefix


def _check_count(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}: an empty prefix cannot be judged.")
