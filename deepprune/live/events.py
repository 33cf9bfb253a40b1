"""Events of questions that are pruned live, as JSON lines."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

from deepprune.core.protocols import ANY_FINISHED, Observation, Step
from deepprune.core.types import Decision
from deepprune.evaluation.watcher import Watcher
from deepprune.live.question import LiveQuestion, LiveResult


class EventLines(Watcher):
    """Writes the events of ``docs/prune.md`` to a stream; flushes after every line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def on_question_start(self, live: LiveQuestion) -> None:
        q = live.question
        facts = {"question": q.text, "dataset": q.dataset, "gold": q.gold}
        self._write("start", live, **facts, n_traces=live.n_traces)

    def on_checkpoint(self, live: LiveQuestion, step: Step, seen: Observation) -> None:
        until = None
        if step.until is ANY_FINISHED:
            until = {"kind": step.until.value, "k": 1}
        elif step.until is not None:
            kind = getattr(step.until, "kind", "further_tokens")
            until = {"kind": kind, "k": getattr(step.until, "k", step.until)}
        self._write(
            "checkpoint",
            live,
            until=until,
            n_tokens=seen.n_tokens.tolist(),
            finished=seen.is_finished.nonzero()[0].tolist(),
            stopped=seen.is_stopped.nonzero()[0].tolist(),
        )
        if votes := live.vote():
            weights = [{"answer": answer, "weight": weight} for answer, weight in votes]
            self._write("vote", live, answer=votes[0][0], weights=weights)

    def on_decision(self, live: LiveQuestion, decision: Decision) -> None:
        self._write("decision", live, **asdict(decision))

    def on_fallback(self, live: LiveQuestion, reason: str) -> None:
        self._write("fallback", live, reason=reason)

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        self._write("answer", live, **row)

    def _write(self, event: str, live: LiveQuestion, **facts: Any) -> None:
        named = {"event": event, "question_id": live.question.question_id, "seconds": live.seconds}
        try:
            self._stream.write(json.dumps(named | facts, ensure_ascii=False) + "\n")
            self._stream.flush()
        except BrokenPipeError:  # the reader of a pipe is gone; the run continues
            gone, self._stream = self._stream, open(os.devnull, "w")  # noqa: SIM115
            with suppress(OSError, ValueError):  # otherwise flushing the buffer fails again at exit
                os.dup2(self._stream.fileno(), gone.fileno())
