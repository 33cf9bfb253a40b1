"""The formats that can be imported: how each is recognised, and where its fields are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepprune.traces.records import Record

Note = Callable[[str], None]
"""Called with one line for the user: what was read, what was left out."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        what: Description for ``deepprune traces formats``.
        marks: Names, separated by spaces, that a record of this format has; one set per variant.
        fields: deepprune's field name -> path in a record, with ``|`` between alternatives.
        records: Joins, drops or completes records where paths do not suffice.
    """

    what: str
    marks: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    records: Callable[[Iterable[Record], Note], Iterable[Record]] | None = None


def recognise(names: Collection[str], *, is_parquet: bool) -> str | None:
    """Return the format of a file whose first record has these names."""
    for name, format in FORMATS.items():
        if is_parquet or name not in STORED:
            for marks in format.marks:
                if all(mark in names for mark in marks.split()):
                    return name
    return None


def message_text(message: object) -> str | None:
    r"""Return the text of a chat message or of its content; reasoning stands in ``<think>`` tags.

    Reasoning without an answer after it is left open, as the model left it.

    >>> message_text({"role": "assistant", "reasoning_content": "2+2", "content": "4"})
    '<think>\n2+2\n</think>\n\n4'
    """
    if isinstance(message, str):
        return message
    thoughts: str | None = None
    text: str | None = None
    if isinstance(message, list):
        parts = [part for part in message if isinstance(part, dict)]
        thoughts = "".join(str(p.get("reasoning") or p.get("thinking") or "") for p in parts)
        texts = [p["text"] for p in parts if isinstance(p.get("text"), str)]
        text = "".join(texts) if texts else None
    elif isinstance(message, dict):
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        text = message_text(message.get("content", message.get("value")))
    if not thoughts:
        return text
    return f"<think>\n{thoughts}" + (f"\n</think>\n\n{text}" if text else "")


def _first_filter(records: Iterable[Record], note: Note) -> Iterator[Record]:
    """Yield one line per document: a line of another filter repeats its traces."""
    used: dict[str, str] = {}
    others: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        name = str(record.fields.get("filter"))
        if used.setdefault(record.dataset, name) == name:
            yield record
        else:
            others[record.dataset].add(name)
    for dataset, names in others.items():
        note(
            f"{dataset}: the lines of filter {used[dataset]!r} are read; those of "
            f"{', '.join(sorted(names))} repeat their traces."
        )


def _details(records: Iterable[Record], note: Note) -> Iterator[Record]:
    for record in records:
        doc, response = record.fields["doc"], record.fields["model_response"]
        at = doc.get("gold_index")
        gold = [doc["choices"][i] for i in (at if isinstance(at, list) else [at]) if i is not None]
        thoughts = response.get("reasonings") or [None] * len(response["text"])
        texts = [
            message_text({"reasoning": reasoning, "content": text})
            for reasoning, text in zip(thoughts, response["text"], strict=True)
        ]
        yield record._replace(fields={**record.fields, "text": texts, "gold": gold})


def _completed(records: Iterable[Record], note: Note) -> Iterator[Record]:
    left_out: Counter[str] = Counter()
    for record in records:
        if (record.fields.get("output") or {}).get("choices"):
            yield record
        else:
            left_out["error" if record.fields.get("error") else "no output"] += 1
    _tell(left_out, "samples", note)


def _joined(records: Iterable[Record], note: Note) -> Iterator[Record]:
    """Join the lines of output with those of input; leave out what has no text."""
    inputs: dict[Any, Mapping[str, Any]] = {}
    outputs: list[Record] = []
    left_out: Counter[str] = Counter()
    for record in records:
        if "response" in record.fields:
            outputs.append(record)
        else:
            inputs[record.fields.get("custom_id")] = record.fields
    for record in outputs:
        name, response = record.fields.get("custom_id"), record.fields["response"] or {}
        error = record.fields.get("error")
        body = response.get("body") or response
        given = body.get("choices") or ()
        texts = [message_text(choice.get("message", choice.get("text"))) for choice in given]
        choices = [
            {**choice, "text": text}
            for choice, text in zip(given, texts, strict=True)
            if text is not None
        ]
        reason = error.get("code") if isinstance(error, dict) else error
        left_out[str(reason or "no response")] += not given
        left_out["no text"] += len(given) - len(choices)
        if choices:
            model = body.get("model")
            joined = {"custom_id": name, "model": model, "choices": choices}
            source = {"input": inputs[name]} if name in inputs else {}
            yield record._replace(fields=joined | source)
    _tell(left_out, "responses", note)


def _tell(left_out: Counter[str], things: str, note: Note) -> None:
    reasons = [f"{n} {reason}" for reason, n in left_out.items() if n]
    if reasons:
        note(f"{left_out.total()} {things} left out: {', '.join(reasons)}.")


def _probed(records: Iterable[Record], note: Note) -> Iterator[Record]:
    for record in records:
        row = record.fields
        confidence = np.asarray(row.get("confs") or (), np.float32)
        n = len(confidence)
        forced = [
            {"n_tokens": min(probe["position"], n), "answer": probe.get("answer") or None}
            for probe in row.get("probes") or ()
        ]
        ends = np.broadcast_to(np.int32(0), n)
        rest = {"text": "", "token_end": ends, "token_confidence": confidence, "probes": forced}
        yield record._replace(fields=row | rest)


def _reasoned(records: Iterable[Record], note: Note) -> Iterator[Record]:
    for record in records:
        row = record.fields
        if "deepseek_reasoning" in row:
            message = {"reasoning": row["deepseek_reasoning"], "content": row["deepseek_solution"]}
            row = {**row, "generations": message_text(message)}
        yield record._replace(fields=row)


STORED = ("normalised", "native")
"""Formats of whole Parquet files, read by `read_parquet`."""

FORMATS = {
    "normalised": Format(
        "Parquet with dataset, problem_id, problem, model, trace, final_answer, ...",
        ("trace problem_id",),
    ),
    "native": Format(
        "Parquet with the columns of a trace store; answers and token ends may be missing",
        ("text question_id model",),
    ),
    "parallel-probe": Format(
        "JSON list of questions: lengths, answers, forced answers; without text",
        ("each_branch probe_freq",),
    ),
    "lm-eval": Format(
        "samples_*.jsonl of lm-evaluation-harness (--log_samples)",
        ("doc resps filter",),
        {
            "text": "resps",
            "question": "doc.problem|doc.question|doc.query"
            "|arguments.gen_args_0.arg_0|arguments.0.0",
            "question_id": "doc_id",
            "gold": "target",
        },
        _first_filter,
    ),
    "lighteval": Format(
        "details_*.parquet of lighteval (--save-details)",
        ("doc model_response",),
        {
            "text": "text",
            "question": "doc.query",
            "question_id": "doc.id",
            "dataset": "doc.task_name",
            "gold": "gold",
        },
        _details,
    ),
    "inspect": Format(
        "logs of Inspect, .eval or .json; the epoch is the sample",
        ("epoch input target output",),
        {
            "text": "output.choices.0.message",
            "question": "input",
            "question_id": "id",
            "dataset": "eval.task",
            "model": "eval.model|output.model",
            "sample_id": "epoch",
            "gold": "target",
            "finish_reason": "output.choices.0.stop_reason",
        },
        _completed,
    ),
    "batch": Format(
        "batch output of OpenAI or vLLM and its input file, which has the questions (two FILEs)",
        ("custom_id response", "custom_id body"),
        {
            "text": "choices.*.text",
            "question": "input.body.messages|input.body.prompt",
            "model": "model|input.body.model",
            "finish_reason": "choices.*.finish_reason",
            "source": "custom_id",
        },
        _joined,
    ),
    "nemo-skills": Format(
        "output-rs*.jsonl of NeMo-Skills, one file per seed",
        ("generation expected_answer",),
        {
            "text": "generation",
            "question": "problem|question",
            "gold": "expected_answer",
            "answer": "predicted_answer",
        },
    ),
    "qwen-math": Format(
        "JSON lines of Qwen2.5-Math's evaluation and its forks (code, pred, gt)",
        ("code pred gt",),
        {
            "text": "code",
            "question": "question|problem",
            "question_id": "idx",
            "gold": "gt",
            "answer": "pred",
        },
    ),
    "verl": Format(
        "rollouts or validation generations of verl; lines of one input are its traces",
        ("input output gts",),
        {"text": "output", "question": "input", "gold": "gts"},
    ),
    "mars": Format(
        "Parquet of MARS: answers, confidences, forced answers; without text",
        ("trace_idx ground_truth extracted_answer",),
        {
            "text": "text",
            "question": "qid",
            "question_id": "qid",
            "sample_id": "trace_idx",
            "gold": "ground_truth",
            "answer": "extracted_answer",
            "token_end": "token_end",
            "token_confidence": "token_confidence",
            "probes": "probes",
        },
        _probed,
    ),
    "generations": Format(
        "OpenR1 (generations), OpenThoughts (deepseek_*), OpenMathReasoning (generated_solution)",
        ("generations", "generated_solution problem", "deepseek_reasoning deepseek_solution"),
        {
            "text": "generations|generated_solution",
            "question": "problem|question",
            "question_id": "uuid",
            "gold": "answer|expected_answer|ground_truth_solution",
            "model": "generation_model",
            "finish_reason": "finish_reasons",
        },
        _reasoned,
    ),
    "rows": Format(
        "JSON lines or Parquet, one trace or a list of traces per row, any names (--field)",
        ("text question",),
    ),
    "chat": Format(
        "conversations: the last message is the trace, the last of the user the question",
        ("messages", "conversations"),
        {
            "text": "messages.-1|conversations.-1",
            "question": "messages|conversations",
            "gold": "gold|answer",
        },
    ),
}
"""Formats that can be imported, in the order in which they are tried."""
