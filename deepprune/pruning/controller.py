"""The loop between a policy and an engine's session, the same for a recording and a live server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deepprune.protocols import Evidence, Observation, Policy, Session, Step, Usage
from deepprune.types import Decision, Vote


class Watcher(Protocol):
    """Sees a question as it goes on."""

    def on_checkpoint(self, step: Step, seen: Observation) -> None:
        """All running traces have reached ``step.until``."""
        ...

    def on_decision(self, decision: Decision) -> None:
        """A trace is about to be stopped."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question under a policy.

    Attributes:
        vote: The answer.
        decisions: The traces that were stopped, in the order of stopping.
        final: State of all started traces at the end.
        usage: The engine's own count.
    """

    vote: Vote
    decisions: tuple[Decision, ...]
    final: Observation
    usage: Usage


def run_question(
    policy: Policy,
    session: Session,
    n_traces: int,
    evidence: Evidence,
    rng: np.random.Generator,
    watcher: Watcher | None = None,
) -> Outcome:
    """Let ``policy`` decide one question on ``session``; closes the session, whatever happens."""
    decisions: list[Decision] = []
    try:
        run = policy.run(n_traces, evidence, rng)
        step = next(run)
        while True:
            if watcher is not None:
                for decision in step.stop:
                    watcher.on_decision(decision)
            decisions.extend(step.stop)
            if step.stop:
                session.stop([d.trace for d in step.stop])
            if step.start:
                session.start(step.start)
            seen = session.advance(step.until, step.probe)
            if watcher is not None:
                watcher.on_checkpoint(step, seen)
            try:
                step = run.send(seen)
            except StopIteration as end:
                vote: Vote = end.value
                break
        return Outcome(vote, tuple(decisions), seen, session.usage)
    finally:
        session.close()
