"""Reader of recordings without text: answers, lengths, and answers forced along the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason, ForcedAnswer, Question, Trace
from deepprune.traces.manifest import GENERATOR, SOURCE
from deepprune.traces.records import Record
from deepprune.traces.source import SourceFile, question_id_of, whole

_FIELDS = ("question", "gold_answer", "probe_freq", "each_branch")
_NO_ANSWER = ("", "ERR")


def read_parallel_probe(
    records: Iterable[Record], path: Path, dataset: str | None, model: str | None
) -> SourceFile:
    """Read questions in the format of Parallel-Probe.

    A question has ``question``, ``gold_answer``, ``probe_freq`` (tokens) and ``each_branch`` with
    ``[forced answers, length in tokens, final answer]`` per trace; other fields are ignored. An
    answer ``ERR``, "" or null is missing. The question_id is a hash of the text, the sample_id
    the position in ``each_branch``. The traces have tokens but no text: each token ends after 0
    characters.

    Answer ``i = 1, 2, ...`` was forced after ``i * probe_freq`` tokens. One beyond the end is moved
    to the end if its interval starts within the trace, else skipped. In the file for Qwen3-8B on
    AIME 2024 (github.com/zhengkid/Parallel-Probe, 3,840 traces, 106,303 forced answers):

    * The last one always equals the final answer, even ``ERR`` (the one before it in 94%). It
      belongs to the interval in which the thinking ended.
    * The written solution after it has none, but counts in the length: the last one is up to 4,200
      tokens before the end. In 805 traces the solution ends in the same interval, and the last one
      would be up to 370 tokens beyond the end. No other would.

    Args:
        records: The questions.
        path: Their file.
        dataset: Name of the dataset; the file's name without its suffix if ``None``.
        model: Name of the model; the file's name without its suffix if ``None``.

    Raises:
        InputError: If it has another layout; with the number of the question and the trace.
    """
    traces = (
        trace
        for number, record in enumerate(records, 1)
        for trace in _traces(record.fields, dataset or path.stem, model or path.stem, number)
    )
    return SourceFile("parallel-probe", traces, token_counter=GENERATOR, answers=SOURCE)


def _traces(fields: dict[str, Any], dataset: str, model: str, number: int) -> Iterator[Trace]:
    """Yield the traces of one question."""
    if missing := [name for name in _FIELDS if name not in fields]:
        raise InputError(
            f"question {number} has no {', '.join(missing)}; it has {', '.join(fields)}. "
            "(A .json file has questions with forced answers; other traces go into .jsonl.)"
        )
    for name, type_, words in (
        ("question", str, "a string"),
        ("probe_freq", int, "an integer"),
        ("each_branch", list, "a list"),
    ):
        if type(fields[name]) is not type_:  # a bool is no integer
            raise InputError(
                f"question {number}: {name} must be {words}, got {str(fields[name])[:40]!r}."
            )
    every = fields["probe_freq"]
    if every < 1:
        raise InputError(f"question {number}: probe_freq must be at least 1 token, got {every}.")
    text = whole(fields["question"])
    question = Question(dataset, question_id_of(text), text, _answer(fields["gold_answer"]))
    for sample_id, branch in enumerate(fields["each_branch"]):
        kinds = [type(part) for part in branch] if isinstance(branch, list) else []
        if len(kinds) != 3 or kinds[:2] != [list, int] or branch[1] < 0:
            raise InputError(
                f"question {number}, trace {sample_id + 1} must be [forced answers, length "
                f"in tokens, final answer], got {str(branch)[:60]!r}."
            )
        forced, n_tokens, final = branch
        answer = _answer(final)
        yield Trace(
            question=question,
            model=model,
            sample_id=sample_id,
            text="",
            n_tokens=n_tokens,
            finish_reason=FinishReason.UNKNOWN if answer is None else FinishReason.STOP,
            answer=answer,
            token_end=cast(Sequence[int], np.broadcast_to(np.int32(0), n_tokens)),
            forced_answers=_placed(forced, every, n_tokens),
        )


def _placed(answers: Sequence[object], every: int, n_tokens: int) -> tuple[ForcedAnswer, ...]:
    """Place the forced answers of a trace, each at the end of its interval.

    >>> [one.n_tokens for one in _placed(["1", "2", "3"], every=500, n_tokens=900)]
    [500, 900]
    """
    return tuple(
        ForcedAnswer(min((i + 1) * every, n_tokens), _answer(answer))
        for i, answer in enumerate(answers)
        if i * every < n_tokens
    )


def _answer(value: object) -> str | None:
    return None if value is None or str(value).strip() in _NO_ANSWER else whole(str(value))
