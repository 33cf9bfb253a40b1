"""The loop between a policy and a session, the same for a recording and a live server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepprune.core.protocols import Evidence, Observation, Policy, Session, Step, Usage
from deepprune.core.types import Decision, Vote
from deepprune.pruning.voting import plurality


class JudgeError(RuntimeError):
    """The judge raised, returned no valid score or timed out; the message is one line."""


Tell = Callable[..., None]
"""Called with the name of a method of `evaluation.watcher.Watcher`, and its arguments."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a question under a policy.

    Attributes:
        vote: The answer.
        decisions: The traces that were stopped, in the order of stopping.
        final: State of all started traces at the end.
        usage: The engine's own count.
        fallback: Why the question was decided without the policy; ``None`` if the policy did.
    """

    vote: Vote
    decisions: tuple[Decision, ...]
    final: Observation
    usage: Usage
    fallback: str | None = None


def run_question(
    policy: Policy,
    session: Session,
    n_traces: int,
    evidence: Evidence,
    rng: np.random.Generator,
    tell: Tell = lambda hook, *facts: None,
) -> Outcome:
    """Run ``policy`` on one question, and close the session whatever happens.

    If the judge fails (`JudgeError`), the question continues unpruned: all N traces run to their
    end, except those that had been stopped before, and vote.
    """
    decisions: list[Decision] = []
    fallback: str | None = None
    try:
        run = policy.run(n_traces, evidence, rng)
        step = next(run)
        while True:
            for decision in step.stop:
                tell("on_decision", decision)
            decisions.extend(step.stop)
            if step.stop:
                session.stop([d.trace for d in step.stop])
            if step.start:
                session.start(step.start)
            seen = session.advance(step.until, step.force)
            tell("on_checkpoint", step, seen)
            try:
                step = run.send(seen)
            except StopIteration as end:
                vote: Vote = end.value
                break
            except JudgeError as error:
                fallback = str(error)
                tell("on_fallback", fallback)
                missing = n_traces - session.n_started
                if missing:
                    session.start(missing)
                seen = session.advance(None)
                tell("on_checkpoint", Step(start=missing), seen)
                voters = np.flatnonzero(~seen.is_stopped).tolist()
                vote = plurality(seen.answer_class.tolist(), voters)
                break
        return Outcome(vote, tuple(decisions), seen, session.usage, fallback)
    finally:
        session.close()
