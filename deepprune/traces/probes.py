"""Reader of recordings without text: answers, lengths, and answers forced along the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason, ForcedAnswer, Question
from deepprune.traces.formats import Record, SourceFile, question_id_of, whole
from deepprune.traces.manifest import GENERATOR, SOURCE

_FIELDS = ("question", "gold_answer", "probe_freq", "each_branch")
_NO_ANSWER = ("", "ERR")  # what stands there for a probe or a trace without an answer


def read_probes(path: Path, dataset: str | None, model: str | None) -> SourceFile:
    """Read a JSON list of questions as Parallel-Probe records them.

    A question has ``question``, ``gold_answer``, ``probe_freq`` (tokens) and ``each_branch``: for
    each trace ``[probe answers, length in tokens, final answer]``. What else it has is not read
    (``final_answers_trace`` repeats the final answers). ``ERR``, an empty string and null are no
    answer. A question is known by a hash of its text, a trace by its place in ``each_branch``. A
    trace without a text has tokens all the same: each ends after 0 characters.

    Probe ``i = 1, 2, ...`` was forced after ``i * probe_freq`` tokens. One that would lie beyond
    the end is put at the end, if the tokens before it begin within the trace, else left out.

    What the file for Qwen3-8B on AIME 2024 holds (github.com/zhengkid/Parallel-Probe, 3,840 traces,
    106,303 probes), so far as its numbers tell:

    * The last probe is no probe: it is the final answer, in all traces, also where that is ``ERR``
      (the last but one agrees in 94%). It stands for the stretch in which the thinking ended.
    * Nothing is probed after that, in the written solution, which the length includes. So the last
      probe lies up to 4,200 tokens before the end. In 805 traces the solution ends in the same
      stretch; there the last place lies beyond the end, by up to 370 tokens, and is put at the end.
    * No other place lies beyond the end.

    Args:
        path: The file.
        dataset: Name of the dataset; the file's name without its suffix if ``None``.
        model: Name of the model, which the file does not tell; likewise.

    Raises:
        InputError: If the file is no such list; by the position of the question and trace, from 1.
    """
    try:
        questions = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is no JSON: {error}.") from None
    if not isinstance(questions, list):
        raise InputError(
            f"{str(path)!r} must be a JSON list of questions with {', '.join(_FIELDS)}, got a JSON "
            f"{type(questions).__name__}. One JSON object per line is for a .jsonl file."
        )
    records = [
        record
        for number, fields in enumerate(questions, 1)
        for record in _records(fields, dataset or path.stem, model or path.stem, number)
    ]
    return SourceFile("probes", records, token_counter=GENERATOR, answers=SOURCE)


def _records(fields: object, dataset: str, model: str, number: int) -> Iterator[Record]:
    """The traces of one question."""
    if not isinstance(fields, dict):
        raise InputError(f"question {number} must be a JSON object, got {str(fields)[:40]!r}.")
    if missing := [name for name in _FIELDS if name not in fields]:
        raise InputError(
            f"question {number} has no {', '.join(missing)}; it has {', '.join(fields)}. "
            "(A .json file is a list of questions with probes; other traces go into .jsonl.)"
        )
    _hold(fields, "question", str, f"question {number}")
    _hold(fields, "probe_freq", int, f"question {number}")
    _hold(fields, "each_branch", list, f"question {number}")
    every = fields["probe_freq"]
    if every < 1:
        raise InputError(f"question {number}: probe_freq must be at least 1 token, got {every}.")
    text = whole(fields["question"])
    question = Question(dataset, question_id_of(text), text, _answer(fields["gold_answer"]))
    for sample_id, branch in enumerate(fields["each_branch"]):
        if not (
            isinstance(branch, list)
            and len(branch) == 3
            and isinstance(branch[0], list)
            and _is_length(branch[1])
        ):
            raise InputError(
                f"question {number}, trace {sample_id + 1} must be [probe answers, length in "
                f"tokens, final answer], got {str(branch)[:60]!r}."
            )
        probes, n_tokens, final = branch
        answer = _answer(final)
        yield Record(
            question=question,
            model=model,
            sample_id=sample_id,
            text="",
            finish_reason=FinishReason.UNKNOWN if answer is None else FinishReason.STOP,
            answer=answer,
            token_end=np.broadcast_to(np.int32(0), n_tokens),
            forced_answers=_placed(probes, every, n_tokens),
        )


def _placed(answers: Sequence[object], every: int, n_tokens: int) -> tuple[ForcedAnswer, ...]:
    """The forced answers of a trace of ``n_tokens`` tokens, each at the end of its stretch.

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


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _hold(fields: Mapping[str, Any], name: str, type_: type, where: str) -> None:
    value = fields[name]
    if not isinstance(value, type_) or isinstance(value, bool):
        words = {str: "a string", int: "an integer", list: "a list"}
        raise InputError(f"{where}: {name} must be {words[type_]}, got {str(value)[:40]!r}.")
