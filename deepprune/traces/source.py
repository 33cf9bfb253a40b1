"""Contents of an imported file: its traces, and what is known about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isnan
from typing import Any

from deepprune.answers import extract_answer
from deepprune.core.types import NO_ANSWER, FinishReason, ForcedAnswer, Question, Trace

_FINISH_REASONS = {
    **{reason.value: reason for reason in FinishReason},
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence"), FinishReason.STOP),
    **dict.fromkeys(("max_tokens", "model_length"), FinishReason.LENGTH),
}


@dataclass(slots=True)
class SourceFile:
    """Contents of a file.

    Attributes:
        format: Name of its format.
        traces: Its traces, in the order of the file, read when they are taken; without token ends
            if it has none.
        token_counter: Tokenizer of its token ends; ``None`` without token ends.
        answers: Style by which its answers were extracted; ``None`` without answers. Known once
            all traces are read.
        has_classes: Whether it has equivalence classes and correctness.
        has_forced_classes: Whether its forced answers have classes in the numbering of its answers.
    """

    format: str
    traces: Iterable[Trace]
    token_counter: str | None = None
    answers: str | None = None
    has_classes: bool = False
    has_forced_classes: bool = False


def trace_of(row: Mapping[str, Any]) -> Trace:
    """Return the trace of a row with the names of the schema, of which some may be missing."""
    ends, answer_class = row.get("token_end"), row.get("answer_class")
    gold = gold_of(row.get("gold"))
    return Trace(
        question=Question(row["dataset"], row["question_id"], row["question"], gold),
        model=row["model"],
        sample_id=row["sample_id"],
        text=row["text"],
        n_tokens=0 if ends is None else len(ends),
        token_end=() if ends is None else ends,
        finish_reason=_FINISH_REASONS.get(
            str(row.get("finish_reason")).lower(), FinishReason.UNKNOWN
        ),
        answer=row.get("answer"),
        answer_class=NO_ANSWER if answer_class is None else answer_class,
        is_correct=row.get("is_correct"),
        seed=row.get("seed"),
        source=row.get("source"),
        token_confidence=row.get("token_confidence"),
        forced_answers=tuple(ForcedAnswer(**one) for one in row.get("probes") or ()),
    )


def question_id_of(text: str) -> str:
    """Hash the question's text to a question_id, for files that have none."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def whole(text: str) -> str:
    """Replace lone surrogates by U+FFFD, so that the text can be written as UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def gold_of(value: object) -> str | None:
    r"""Return a gold answer as text; ``None`` if it is missing, blank or NaN.

    The answer of a whole solution is found like that of a trace. Several values are the parts of
    one answer.

    >>> gold_of("Seven boxes of 10 are 70 pens.\n#### 70"), gold_of([2, 3]), gold_of(" ")
    ('70', '2, 3', None)
    """
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    return _gold_text(str(value))


@lru_cache(1024)  # a question's traces repeat it
def _gold_text(value: str) -> str | None:
    text = whole(value).strip()
    return extract_answer(text) or text or None
