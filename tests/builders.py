"""Small hand-made traces, every word a token, and a way to run a policy on them."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepprune.core.types import (
    NO_ANSWER,
    FinishReason,
    ForcedAnswer,
    Question,
    QuestionTraces,
    Trace,
)
from deepprune.pruning.controller import run_question
from deepprune.pruning.replay import ReplayEngine


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


def with_forced_answers(traces: QuestionTraces, classes: Sequence[Sequence[int]], every: int):
    """The same traces with forced answers recorded after ``every``, ``2 * every``, ... tokens."""
    forced = [
        replace(
            t,
            forced_answers=tuple(
                ForcedAnswer((i + 1) * every, str(c), c) for i, c in enumerate(of_trace)
            ),
        )
        for t, of_trace in zip(traces.traces, classes, strict=True)
    ]
    return replace(traces, traces=tuple(forced))


class SessionEvidence:
    """Evidence from a session; ``similarity`` is a matrix over trace indices, or 1 where the
    recorded answers agree."""

    mean_length = 10.0

    def __init__(self, session, similarity=None):
        self.session = session
        self.similarity = None if similarity is None else np.asarray(similarity, dtype=float)

    def score(self, pairs):
        if self.similarity is not None:
            return self.similarity[pairs[:, 0], pairs[:, 1]]
        classes = [[self.session.prefix(i).trace.answer_class for i in p] for p in pairs.tolist()]
        return np.array([a == b != NO_ANSWER for a, b in classes], dtype=float)

    def confidence(self, trace):
        return self.session.confidence(trace)


class InOrder(ReplayEngine):
    """A replay whose traces start in their recorded order, so that arithmetic can be worked out."""

    def order(self, n_traces, seed):
        return np.arange(n_traces)


def recorded(traces: QuestionTraces):
    """Open sessions of the live pruner on a recording."""
    engine = ReplayEngine(traces, shuffle=False)
    return lambda question, model, n, seed: engine.open(min(n, len(traces.traces)), seed)


def play(policy, traces: QuestionTraces, similarity=None, seed=0, tokens_per_forced_answer=0):
    """Run a policy on all traces of one question, in their recorded order."""
    engine = InOrder(traces, tokens_per_forced_answer=tokens_per_forced_answer)
    n = len(traces.traces)
    session = engine.open(n, seed)
    evidence = SessionEvidence(session, similarity)
    return run_question(policy, session, n, evidence, np.random.default_rng(seed))
