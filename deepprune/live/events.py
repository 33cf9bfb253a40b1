"""Events of questions that are pruned live, as JSON lines."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any, TextIO

from deepprune.core.protocols import Observation, Step
from deepprune.core.types import Decision, PrefixRule
from deepprune.evaluation.watcher import Watcher
from deepprune.live.pruner import decision_facts
from deepprune.live.question import LiveQuestion, LiveResult


class EventLines(Watcher):
    """Writes ``start``, ``checkpoint``, ``decision``, ``vote``, ``fallback`` and ``answer``.

    ``seconds`` counts from the start of the question. A ``vote`` follows a checkpoint at which
    traces had finished; ``answer`` is the question's line of ``results.jsonl``.

    Args:
        stream: Where the lines go; flushed after every line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def on_question_start(self, live: LiveQuestion) -> None:
        q = live.question
        facts = {"question": q.text, "dataset": q.dataset, "gold": q.gold}
        self._write("start", live, **facts, n_traces=live.n_traces)

    def on_checkpoint(self, live: LiveQuestion, step: Step, seen: Observation) -> None:
        self._write(
            "checkpoint",
            live,
            until=_until(step.until),
            n_tokens=seen.n_tokens.tolist(),
            finished=seen.is_finished.nonzero()[0].tolist(),
            stopped=seen.is_stopped.nonzero()[0].tolist(),
        )
        if votes := live.vote():
            weights = [{"answer": answer, "weight": weight} for answer, weight in votes]
            self._write("vote", live, answer=votes[0][0], weights=weights)

    def on_decision(self, live: LiveQuestion, decision: Decision) -> None:
        self._write("decision", live, **decision_facts(decision))

    def on_fallback(self, live: LiveQuestion, reason: str) -> None:
        self._write("fallback", live, reason=reason)

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        self._write("answer", live, **row)

    def _write(self, event: str, live: LiveQuestion, **facts: Any) -> None:
        named = {"event": event, "question_id": live.question.question_id, "seconds": live.seconds}
        try:
            self._stream.write(json.dumps(named | facts, ensure_ascii=False) + "\n")
            self._stream.flush()
        except BrokenPipeError:  # the reader of a pipe has gone; the run continues
            gone, self._stream = self._stream, open(os.devnull, "w")  # noqa: SIM115
            with suppress(OSError, ValueError):  # else flushing the buffer fails again at exit
                os.dup2(self._stream.fileno(), gone.fileno())


def _until(until: PrefixRule | int | None) -> dict[str, Any] | None:
    """Return the checkpoint, ``None`` at the end of the traces."""
    if isinstance(until, int):
        return {"kind": "further_tokens", "k": until}
    return None if until is None else {"kind": until.kind, "k": until.k}
