from collections.abc import Callable

import numpy as np
import pytest

from deepprune.core.types import Question, Trace


@pytest.fixture
def make_trace() -> Callable[..., Trace]:
    """A trace of one token per character, with whatever fields a test cares about."""

    def make(question_id="q1", sample_id=0, *, model="m", text="ab", dataset="d", **fields):
        gold = fields.pop("gold", "4")
        question = Question(dataset, question_id, fields.pop("question", "2+2?"), gold)
        fields.setdefault("token_end", np.arange(1, len(text) + 1, dtype=np.int32))
        fields.setdefault("n_tokens", len(fields["token_end"]))
        return Trace(question=question, model=model, sample_id=sample_id, text=text, **fields)

    return make
