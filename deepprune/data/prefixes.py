"""Rules that say where a prefix ends, and cutting traces by them."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar

from deepprune.answers.extract import contains_answer
from deepprune.core.options import Count, Gt, Le, checked
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


@checked
@dataclass(frozen=True, slots=True)
class FirstTokens:
    """The first ``k`` tokens.

    Attributes:
        k: Tokens; the paper compares 300, 500 and 700.
    """

    kind: ClassVar[str] = "first_tokens"
    k: Count = 64

    def cut(self, text: str, token_end: Sequence[int]) -> int:
        return min(self.k, len(token_end))


@checked
@dataclass(frozen=True)
class ReasoningWords:
    """The tokens up to the ``k``-th reasoning word.

    Counts whole words, ignoring case. If the text has fewer, the prefix is the whole text; a trace
    that is still being generated then continues.

    Attributes:
        k: Reasoning words that the prefix holds; the paper compares 15, 25 and 35.
        words: The words that count, in any case.
    """

    kind: ClassVar[str] = "reasoning_words"
    k: Count = 25
    words: Sequence[str] = REASONING_WORDS

    def __post_init__(self) -> None:
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


@checked
@dataclass(frozen=True, slots=True)
class Fraction:
    """The fraction ``k`` of a trace's tokens, rounded up.

    For analysis only: it needs the length of the finished trace, which is unknown during
    generation. Policies must not use it.

    Attributes:
        k: Share of the whole trace.
    """

    kind: ClassVar[str] = "fraction"
    k: Annotated[float, Gt(0), Le(1)] = 0.25

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
