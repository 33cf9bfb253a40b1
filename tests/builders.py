"""Small hand-made traces: every word is a token."""

import re
from collections.abc import Sequence

from deepprune.types import NO_ANSWER, FinishReason, Question, QuestionTraces, Trace


def trace(
    question: Question, sample_id: int, text: str, answer: str | None, answer_class: int
) -> Trace:
    """A trace whose tokens are its words with the spaces before them."""
    ends = [m.end() for m in re.finditer(r"\s*\S+", text)]
    return Trace(
        question=question,
        model="tiny",
        sample_id=sample_id,
        text=text,
        n_tokens=len(ends),
        token_end=ends,
        finish_reason=FinishReason.STOP,
        answer=answer,
        answer_class=answer_class,
        is_correct=answer is not None and answer == question.gold,
    )


def group(
    answers: Sequence[str | None],
    lengths: Sequence[int] | int = 10,
    *,
    name: str = "q",
    gold: str = "a",
) -> QuestionTraces:
    """A question whose traces end in ``answers`` after ``lengths`` tokens."""
    question = Question("toy", name, f"What is {name}?", gold)
    lengths = [lengths] * len(answers) if isinstance(lengths, int) else lengths
    classes = {a: i for i, a in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    return QuestionTraces(
        question,
        "tiny",
        tuple(
            trace(
                question,
                i,
                " ".join([f"{name}{i}w{k}" for k in range(n - 1)] + [str(a)]),
                a,
                NO_ANSWER if a is None else classes[a],
            )
            for i, (a, n) in enumerate(zip(answers, lengths, strict=True))
        ),
    )
