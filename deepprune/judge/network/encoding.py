"""Token sequences of pairs: the question and two prefixes.

Tensor names: B pairs, T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.options import Count
from deepprune.core.protocols import BoolArray, IntArray
from deepprune.core.types import TracePair
from deepprune.judge.network.packing import PairTokens, pack

Layout: TypeAlias = Literal["bert", "causal"]
"""``bert`` reads [CLS] question [SEP] first [SEP] second [SEP]; ``causal`` an instruction,
question, first and second prefix, in words."""

_INSTRUCTION = (
    "Below are the beginnings of two solutions to one question. "
    "Will both end in the same final answer?"
)
_QUESTION, _FIRST, _SECOND = "\n\nQuestion:\n", "\n\nTrace A:\n", "\n\nTrace B:\n"
_VERDICT = "\n\nSame final answer:"
_ASK = "\n\nWill both end in the same final answer? Answer Yes or No."
ANSWER_WORDS = ("Yes", "No")
"""Next words that a generative head compares unless told others: "same", then "different"."""
_CACHED_TEXTS = 65_536
_MAX_QUESTION_SHARE = 0.25  # of the window, where the window is too short for everything


class PairEncoder:
    """Turns pairs into model inputs.

    The representative comes first, so that in the causal layout all its pairs share everything up
    to the candidate. A window too short for a pair keeps the *start* of the question (at most a
    quarter of the window) and the *end* of each prefix; the two share the rest evenly, and what the
    shorter one does not need goes to the longer one. In the causal layout question and
    representative are cut as though the candidate were as long as the representative, so that all
    its pairs begin alike: a long representative is cut even where a short candidate leaves it room.

    Args:
        tokenizer: A Hugging Face tokenizer; ``bert`` needs [CLS], [SEP] and [PAD].
        layout: ``bert`` or ``causal``.
        max_length: Longest sequence the model reads, in tokens, special tokens and template
            included.
        with_question: Whether the question stands before the prefixes.
        chat_template: Whether the text is a user's message in the tokenizer's chat template, with
            the assistant's turn opened; ``causal`` only.
        generative: Whether the text ends where one of ``answer_words`` comes next, for a generative
            head; ``causal`` only.
        template: Text of a ``causal`` model, with ``{first}`` and ``{second}`` for the prefixes and
            before them ``{question}`` where the question is read; ``None`` for our own.
        answer_words: What a generative head takes for "same" and for "different".
        texts: What an export was trained on, with its chat template: the start, the headings of
            question, first and second prefix, and the end. Chat templates change, some state the
            date. Empty to make them.

    Attributes:
        settings: The arguments as JSON values, but for tokenizer and ``template``.

    Raises:
        ValueError: If the window has no room for two tokens of prefix, or the tokenizer lacks a
            token or the template that is asked for.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        layout: Layout = "bert",
        max_length: Count = 512,
        with_question: bool = False,
        chat_template: bool = False,
        generative: bool = False,
        template: str | None = None,
        answer_words: Sequence[str] = ANSWER_WORDS,
        texts: Sequence[str] = (),
    ) -> None:
        if layout not in ("bert", "causal"):
            raise ValueError(f"layout must be bert or causal, got {layout!r}.")
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self.layout = layout
        self.max_length, self.with_question = max_length, with_question
        if layout == "causal":
            if not texts:
                own = _own_texts(chat_template, generative)
                texts = own if template is None else _texts(template, with_question)
                texts = _in_chat(texts, tokenizer) if chat_template else texts
            if not (texts[0] and texts[-1]):
                raise ValueError(
                    "template needs a text before its first and after its last name, or "
                    f"chat_template=true, got {template!r}."
                )
        elif chat_template or generative or template is not None:
            raise ValueError(
                "chat_template, template and generative need the causal layout, that is a causal "
                "backbone with pooling=last, got layout bert."
            )
        self.settings = {
            "layout": layout,
            "max_length": max_length,
            "with_question": with_question,
            "chat_template": chat_template,
            "generative": generative,
            "answer_words": list(answer_words),
            "texts": list(texts),
        }
        if layout == "bert":
            start, separator = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
            if None in [*start, *separator, tokenizer.pad_token_id]:
                raise ValueError("the bert layout needs a tokenizer with [CLS], [SEP] and [PAD].")
            parts = [start, separator if with_question else [], separator, separator]
        else:
            if generative:
                answer_ids(tokenizer, answer_words)
            head, *rest = self.tokenise(texts)
            bos = getattr(tokenizer, "bos_token_id", None)
            if bos not in (None, tokenizer.eos_token_id) and not chat_template:
                head = [bos, *head]  # a chat template has its own
            parts = [head + rest[0] if with_question else head, *rest[1:]]
        # Around the question, the first and the second prefix: before, between, between, after.
        self._before, self._to_first, self._to_second, self._after = parts
        self._n_fixed = sum(map(len, parts))
        if max_length < self._n_fixed + 2:
            raise ValueError(
                f"max_length must leave room for two tokens beside the template's {self._n_fixed}, "
                f"got {max_length}."
            )

    def encode(self, pairs: Sequence[TracePair]) -> TokenInputs:
        """Tokenise each text of the pairs once."""
        return TokenInputs(pairs, self)

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of whole texts, without special tokens; remember them."""
        distinct = dict.fromkeys(texts)
        missing = [text for text in distinct if text not in self._known]
        if len(self._known) + len(missing) > _CACHED_TEXTS:
            self._known.clear()
            missing = list(distinct)
        if missing:
            encoded = self.tokenizer(
                missing,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            self._known.update(zip(missing, encoded["input_ids"], strict=True))
        return [self._known[text] for text in texts]

    def length(self, n_question: int, n_first: int, n_second: int) -> int:
        """Return the length of a sequence from the tokens of question and prefixes."""
        return self._n_fixed + sum(self._budget(n_question, n_first, n_second))

    def is_truncated(self, n_question: int, n_first: int, n_second: int) -> bool:
        """Return whether tokens of question or prefixes are cut."""
        wanted = (n_question if self.with_question else 0) + n_first + n_second
        return self.length(n_question, n_first, n_second) < self._n_fixed + wanted

    def join(
        self, question: Sequence[int], first: Sequence[int], second: Sequence[int]
    ) -> PairTokens:
        """Make one sequence."""
        n_question, n_first, n_second = self._budget(len(question), len(first), len(second))
        head = [
            *self._before,
            *question[:n_question],
            *self._to_first,
            *first[len(first) - n_first :],
            *self._to_second,
        ]
        tail = [*second[len(second) - n_second :], *self._after]
        return PairTokens(head + tail, len(head))

    def collate(self, sequences: Sequence[PairTokens]) -> dict[str, Any]:
        """Make model inputs: in the causal layout those of ``pack``, else a row of each pair.

        Rows have ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 ``(B, T)``, padded
        on the right.
        """
        if self.layout == "causal":
            return pack(sequences)
        ids = {
            "input_ids": [s.input_ids for s in sequences],
            "token_type_ids": [[0] * len(s.head) + [1] * len(s.tail) for s in sequences],
        }
        inputs: dict[str, Any] = self.tokenizer.pad(
            ids, padding_side="right", return_tensors="pt", verbose=False
        ).data
        return inputs

    def _budget(self, n_question: int, n_first: int, n_second: int) -> tuple[int, int, int]:
        """Share the window: return how many tokens of each are kept."""
        room = self.max_length - self._n_fixed
        n_other = n_first if self.layout == "causal" else n_second
        if not self.with_question:
            n_question = 0
        elif n_question + n_first + n_other > room:
            n_question = min(n_question, int(room * _MAX_QUESTION_SHARE))
        room -= n_question
        n_first = min(n_first, max(room // 2, room - n_other))
        n_second = min(n_second, room - n_first)
        return n_question, n_first, n_second


class TokenInputs:
    """Token batches of pairs, see ``data.loader.PairInputs``.

    Attributes:
        texts: Numbers of question, first and second prefix of each pair, shape ``(P, 3)``.
    """

    def __init__(self, pairs: Sequence[TracePair], encoder: PairEncoder) -> None:
        self._encoder = encoder
        ids: dict[str, int] = {}
        rows = [
            [
                ids.setdefault(text, len(ids))
                for text in (pair.first.trace.question.text, pair.first.text, pair.second.text)
            ]
            for pair in pairs
        ]
        self.texts: IntArray = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self._tokens = encoder.tokenise(list(ids))
        sizes = np.array([len(tokens) for tokens in self._tokens], dtype=np.int64)
        of_pair = sizes[self.texts].tolist()
        self.lengths: IntArray = np.array([encoder.length(*n) for n in of_pair], dtype=np.int64)
        self.is_truncated: BoolArray = np.array([encoder.is_truncated(*n) for n in of_pair], bool)

    def batch(self, rows: IntArray) -> dict[str, Any]:
        return self._encoder.collate([self.sequence(row) for row in self.texts[rows].tolist()])

    def sequence(self, texts: Sequence[int]) -> PairTokens:
        """Join question, first and second prefix, given by their numbers."""
        return self._encoder.join(*(self._tokens[text] for text in texts))


def answer_ids(tokenizer: Any, words: Sequence[str] = ANSWER_WORDS) -> tuple[int, int]:
    """Return the first tokens of the two answer words.

    Raises:
        InputError: If there are not two, or the tokenizer begins both with the same token.
    """
    if len(words) != 2 or not all(words):
        raise InputError(
            f"answer_words must be two words, for the same answer and for another, got {words}."
        )
    yes, no = (tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in words)
    if yes == no:
        raise InputError(
            f"a generative head needs a tokenizer that begins {' and '.join(words)} with "
            f"tokens of their own, got {tokenizer.convert_ids_to_tokens(yes)!r} for both: take "
            "other answer_words or a classification head."
        )
    return yes, no


def _own_texts(chat_template: bool, generative: bool) -> list[str]:
    """Return the texts around question and prefixes, see ``PairEncoder``."""
    end = _ASK if generative else _VERDICT
    if generative and not chat_template:
        end += "\n"  # so that the word begins a line, as in a chat, and with the same token
    return [_INSTRUCTION, _QUESTION, _FIRST, _SECOND, end]


def _texts(template: str, with_question: bool) -> list[str]:
    """Cut a template at its names.

    Raises:
        ValueError: If it has others, or has them in another order.
    """
    wanted = [*(["question"] if with_question else []), "first", "second"]
    start, *rest = re.split(r"\{(question|first|second)\}", template)
    if rest[::2] != wanted:
        names = ", ".join(f"{{{name}}}" for name in wanted)
        raise ValueError(
            f"template must have {names}, each once and in this order (with_question="
            f"{str(with_question).lower()}), got {template!r}."
        )
    return [start, "", *([] if with_question else [""]), *rest[1::2]]


def _in_chat(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Make the texts a user's message in the tokenizer's chat template, the answer opened."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "chat_template=True needs a tokenizer with a chat template, and this one has none: "
            "set it to false, or take an instruct model."
        )
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _INSTRUCTION}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,  # templates without such a switch ignore it
    )
    start, _, end = rendered.partition(_INSTRUCTION)
    return [start + texts[0], *texts[1:-1], texts[-1] + end]
