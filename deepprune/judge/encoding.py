"""How two prefixes, and the question, become one token sequence.

Tensor names: B pairs, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor

from deepprune.data.loader import PairTokens


class Layout(StrEnum):
    """The order of the parts of a sequence."""

    BERT = "bert"  # [CLS] question [SEP] first [SEP] second [SEP]
    CAUSAL = "causal"  # instruction, question, first, second, in words


_INSTRUCTION = (
    "Below are the beginnings of two solutions to one question. "
    "Will both end in the same final answer?"
)
_QUESTION, _FIRST, _SECOND = "\n\nQuestion:\n", "\n\nTrace A:\n", "\n\nTrace B:\n"
_VERDICT = "\n\nSame final answer:"
_MAX_QUESTION_SHARE = 0.25  # of the window, where the window is too short for everything


@dataclass(frozen=True, slots=True)
class PairEncoderConfig:
    """What decides a sequence besides the tokenizer; small enough for ``judge.json``.

    Attributes:
        layout: ``bert`` or ``causal``.
        max_length: Longest sequence the model reads, in tokens, special tokens and template
            included.
        with_question: Whether the question stands before the prefixes.
        padding_side: ``right`` or ``left``; both give the same logits.
    """

    layout: Layout = Layout.BERT
    max_length: int = 512
    with_question: bool = False
    padding_side: str = "right"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(self.layout))
        if self.padding_side not in ("right", "left"):
            raise ValueError(f"padding_side must be right or left, got {self.padding_side!r}.")
        if self.max_length < 1:
            raise ValueError(f"max_length must be >= 1 token, got {self.max_length}.")


class PairEncoder:
    """Turns pairs into model inputs.

    The representative stands first, so that in the causal layout everything up to the candidate is
    a prefix shared by all pairs of that representative. A window too short for a pair keeps the
    *start* of the question (at most a quarter of the window) and the *end* of each prefix; the two
    share what is left evenly, and what the shorter one does not need goes to the longer one.

    Args:
        tokenizer: A Hugging Face tokenizer with a pad token.
        layout: See ``PairEncoderConfig``.
        max_length: See ``PairEncoderConfig``.
        with_question: See ``PairEncoderConfig``.
        padding_side: See ``PairEncoderConfig``.

    Raises:
        ValueError: If the window has no room for two tokens of prefix, or the tokenizer lacks a
            token that the layout needs.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        layout: Layout | str = Layout.BERT,
        max_length: int = 512,
        with_question: bool = False,
        padding_side: str = "right",
    ) -> None:
        self.tokenizer = tokenizer
        self.config = PairEncoderConfig(Layout(layout), max_length, with_question, padding_side)
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer needs a pad token; backbones.load_tokenizer sets one.")
        if self.config.layout is Layout.BERT:
            if None in (tokenizer.cls_token_id, tokenizer.sep_token_id):
                raise ValueError("the bert layout needs a tokenizer with [CLS] and [SEP].")
            separator = [tokenizer.sep_token_id]
            parts = [[tokenizer.cls_token_id], [], separator, separator]
            if with_question:
                parts[1] = separator
        else:
            head, *rest = self.tokenise([_INSTRUCTION, _QUESTION, _FIRST, _SECOND, _VERDICT])
            bos = getattr(tokenizer, "bos_token_id", None)
            head = head if bos is None or bos == tokenizer.eos_token_id else [bos, *head]
            if with_question:
                parts = [head + rest[0], rest[1], rest[2], rest[3]]
            else:
                parts = [head, rest[1], rest[2], rest[3]]
        # Around the question, the first and the second prefix: before, between, between, after.
        self._before, self._to_first, self._to_second, self._after = parts
        self._n_fixed = sum(map(len, parts))
        if self.config.max_length < self._n_fixed + 2:
            raise ValueError(
                f"max_length must leave room for two tokens beside the template's {self._n_fixed}, "
                f"got {self.config.max_length}."
            )
        self.n_truncated = 0
        """Pairs that did not fit the window, since this encoder was made."""

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens; whole, whatever their length."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [list(ids) for ids in encoded["input_ids"]]

    def length(self, n_question: int, n_first: int, n_second: int) -> int:
        """Tokens of the sequence for so many tokens of question and prefixes."""
        return self._n_fixed + sum(self._budget(n_question, n_first, n_second))

    def join(
        self, question: Sequence[int], first: Sequence[int], second: Sequence[int]
    ) -> PairTokens:
        """One sequence; ``segments`` is 1 for the second prefix and what follows it."""
        n_question, n_first, n_second = self._budget(len(question), len(first), len(second))
        is_truncated = n_first < len(first) or n_second < len(second)
        if self.config.with_question:
            is_truncated |= n_question < len(question)
        self.n_truncated += is_truncated
        head = [
            *self._before,
            *question[:n_question],
            *self._to_first,
            *first[len(first) - n_first :],
            *self._to_second,
        ]
        tail = [*second[len(second) - n_second :], *self._after]
        return PairTokens(head + tail, [0] * len(head) + [1] * len(tail), is_truncated)

    def collate(self, sequences: Sequence[PairTokens]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 of shape ``(B, T)``.

        The bert layout adds ``token_type_ids``; the causal layout, and padding on the left, add
        ``position_ids``, so that padding moves no token.
        """
        longest = max(len(sequence.input_ids) for sequence in sequences)
        shape = (len(sequences), longest)
        input_ids = torch.full(shape, self.tokenizer.pad_token_id, dtype=torch.int64)
        mask, segments = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
        for row, sequence in enumerate(sequences):
            n = len(sequence.input_ids)
            at = slice(0, n) if self.config.padding_side == "right" else slice(longest - n, longest)
            input_ids[row, at] = torch.tensor(sequence.input_ids)
            segments[row, at] = torch.tensor(sequence.segments)
            mask[row, at] = 1
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if self.config.layout is Layout.BERT:
            inputs["token_type_ids"] = segments
        if self.config.layout is Layout.CAUSAL or self.config.padding_side == "left":
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return inputs

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; the tokenizer is saved beside them."""
        return {**asdict(self.config), "layout": str(self.config.layout)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tokenizer: Any) -> Self:
        """What ``to_dict`` gave, with its tokenizer."""
        return cls(tokenizer, **values)

    def _budget(self, n_question: int, n_first: int, n_second: int) -> tuple[int, int, int]:
        """Tokens kept of each."""
        room = self.config.max_length - self._n_fixed
        if not self.config.with_question:
            n_question = 0
        elif n_question + n_first + n_second > room:
            n_question = min(n_question, int(room * _MAX_QUESTION_SHARE))
        room -= n_question
        if n_first + n_second > room:
            half = room // 2
            if n_first <= half:
                n_second = room - n_first
            elif n_second <= room - half:
                n_first = room - n_second
            else:
                n_first, n_second = half, room - half
        return n_question, n_first, n_second
