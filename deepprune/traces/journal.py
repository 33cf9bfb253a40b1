"""Finished traces not yet in a store, in a file of JSON lines that survives a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Self

from deepprune.core.errors import InputError
from deepprune.core.files import replacing, sync_folder
from deepprune.core.types import FinishReason, ForcedAnswer, Question, Trace


class TraceJournal:
    """An append-only file with one trace per line, on disk when `append` returns.

    Parts of a store are large and written once; the journal keeps traces safe until then. An
    incomplete last line, left by a crash, is removed on opening.

    Args:
        path: The file; created if missing.

    Raises:
        InputError: If a complete line is not a trace.
        OSError: If the file cannot be read or created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.traces: list[Trace] = []
        self._lengths: list[int] = []  # bytes of their lines in the file
        if path.exists():
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        self.traces.append(self._read(line, number))
                        self._lengths.append(len(line))
        self._file = path.open("ab", buffering=0)
        self._file.truncate(sum(self._lengths))
        os.fsync(self._file.fileno())
        sync_folder(path.parent)

    def _read(self, line: bytes, number: int) -> Trace:
        try:
            return _trace(json.loads(line))
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"line {number} of {str(self.path)!r} is not a trace ({error}): the file was "
                "edited. Remove the line; its trace is then generated again."
            ) from error

    def append(self, traces: Sequence[Trace]) -> None:
        """Write traces to disk.

        Raises:
            OSError: If writing fails, e.g. on a full disk; the file is then unchanged.
        """
        lines = [json.dumps(_record(trace)).encode() + b"\n" for trace in traces]
        left = b"".join(lines)
        before = os.fstat(self._file.fileno()).st_size
        try:
            while left:  # an unbuffered write may be partial
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(before)
            raise
        self.traces.extend(traces)
        self._lengths.extend(map(len, lines))

    def drop(self, traces: Iterable[Trace]) -> None:
        """Remove traces that a store has now; other lines are copied unchanged.

        Raises:
            OSError: If writing fails; the file is then unchanged.
        """
        stored = {trace.key for trace in traces}
        is_kept = [trace.key not in stored for trace in self.traces]
        try:
            with (
                replacing(self.path) as temporary,
                self.path.open("rb") as old,
                temporary.open("wb") as new,
            ):
                for length, keep in zip(self._lengths, is_kept, strict=True):
                    if keep:
                        new.write(old.read(length))
                    else:
                        old.seek(length, os.SEEK_CUR)
        finally:  # append to the file that now has the name
            self._file.close()
            self._file = self.path.open("ab", buffering=0)
        self.traces = list(compress(self.traces, is_kept))
        self._lengths = list(compress(self._lengths, is_kept))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_PLAIN = ("model", "sample_id", "text", "answer", "seed", "source")
"""Fields of a trace that JSON takes as they are."""


def _record(trace: Trace) -> dict[str, Any]:
    """Convert a trace to JSON, without its answer class, which is not known yet."""
    question, confidence = trace.question, trace.token_confidence
    return {
        "dataset": question.dataset,
        "question_id": question.question_id,
        "question": question.text,
        "gold": question.gold,
        **{name: getattr(trace, name) for name in _PLAIN},
        "token_end": [int(end) for end in trace.token_end],
        "finish_reason": str(trace.finish_reason),
        "token_confidence": None if confidence is None else [float(c) for c in confidence],
        "probes": [[f.n_tokens, f.answer, f.tokens] for f in trace.forced_answers],
    }


def _trace(record: dict[str, Any]) -> Trace:
    return Trace(
        question=Question(*(record[k] for k in ("dataset", "question_id", "question", "gold"))),
        n_tokens=len(record["token_end"]),
        token_end=record["token_end"],
        finish_reason=FinishReason(record["finish_reason"]),
        token_confidence=record["token_confidence"],
        forced_answers=tuple(
            ForcedAnswer(n, answer, tokens=rest[0] if rest else None)
            for n, answer, *rest in record["probes"]
        ),
        **{name: record[name] for name in _PLAIN},
    )
