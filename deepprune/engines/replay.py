"""Recorded traces served like a live engine, with a virtual clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from deepprune.protocols import IntArray, Observation
from deepprune.seeding import generator
from deepprune.types import NO_ANSWER, Prefix, PrefixRule, Question, QuestionTraces, Trace


class ReplayEngine:
    """Replays recorded traces.

    A question's traces start in an order drawn from the seed, so that resampling means another
    seed. Running traces advance in lock-step, one token each per tick: the clock reads the longest
    stretch at every step (sequential decoding), times ``seconds_per_token``. An answer is reported
    only once its trace has ended, so a policy cannot tell a recording from a live engine.
    """

    def __init__(self, groups: Iterable[QuestionTraces], seconds_per_token: float = 0.02) -> None:
        """Serve ``groups``.

        Args:
            groups: The traces of each question.
            seconds_per_token: Virtual decoding time of a token, in seconds.

        Raises:
            ValueError: If ``seconds_per_token`` is not positive.
        """
        if seconds_per_token <= 0:
            raise ValueError(f"seconds_per_token must be positive, got {seconds_per_token}.")
        self._groups = {(g.question, g.model): g for g in groups}
        self._seconds_per_token = seconds_per_token
        self._cuts: dict[tuple[Question, str, int, PrefixRule], int] = {}

    def open(self, question: Question, model: str, n_traces: int, seed: int) -> ReplaySession:
        """Begin a question; ``seed`` decides which recorded traces come, and in which order."""
        traces = self._groups[question, model].traces
        if n_traces > len(traces):
            raise ValueError(
                f"{question.question_id!r} has {len(traces)} recorded traces, asked for {n_traces}."
            )
        rng = generator(seed, question.dataset, question.question_id, model)
        order = rng.permutation(len(traces))[:n_traces]
        return ReplaySession(self, [traces[i] for i in order], self._seconds_per_token)

    def close(self) -> None:
        """Forget the remembered checkpoints."""
        self._cuts.clear()

    def cut(self, trace: Trace, rule: PrefixRule) -> int:
        """Where ``rule`` pauses ``trace``, in tokens; computed once for each trace and rule."""
        key = (trace.question, trace.model, trace.sample_id, rule)
        if key not in self._cuts:
            self._cuts[key] = rule.cut(trace.text, trace.token_end)
        return self._cuts[key]


class ReplaySession:
    """One question of a `ReplayEngine`."""

    def __init__(self, engine: ReplayEngine, traces: list[Trace], seconds_per_token: float) -> None:
        self._engine = engine
        self._traces = traces
        self._seconds_per_token = seconds_per_token
        self._lengths: IntArray = np.array([t.n_tokens for t in traces], dtype=np.int64)
        self._answers: IntArray = np.array([t.answer_class for t in traces], dtype=np.int64)
        self._n_tokens: IntArray = np.zeros(0, dtype=np.int64)
        self._is_stopped = np.zeros(0, dtype=np.bool_)
        self._tokens_generated = 0
        self._ticks = 0

    def start(self, n: int) -> None:
        """Start the next ``n`` traces of the drawn order."""
        started = len(self._n_tokens)
        if started + n > len(self._traces):
            raise ValueError(
                f"the question has {len(self._traces)} traces, {started} are started, "
                f"so {n} more cannot be."
            )
        self._n_tokens = np.concatenate((self._n_tokens, np.zeros(n, dtype=np.int64)))
        self._is_stopped = np.concatenate((self._is_stopped, np.zeros(n, dtype=np.bool_)))

    def stop(self, traces: Sequence[int]) -> None:
        """Stop traces by index."""
        self._is_stopped[list(traces)] = True

    def advance(self, until: PrefixRule | None) -> Observation:
        """Let running traces go on to ``until``; none is ever taken back."""
        started = len(self._n_tokens)
        lengths = self._lengths[:started]
        if until is None:
            target = lengths
        else:
            cuts = [self._engine.cut(t, until) for t in self._traces[:started]]
            target = np.minimum(np.array(cuts, dtype=np.int64), lengths)
        target = np.where(self._is_stopped, self._n_tokens, np.maximum(target, self._n_tokens))
        stretch = target - self._n_tokens
        self._tokens_generated += int(stretch.sum())
        self._ticks += int(stretch.max(initial=0))
        self._n_tokens = target
        is_finished = (target >= lengths) & ~self._is_stopped
        return Observation(
            n_tokens=target.copy(),
            is_finished=is_finished,
            is_stopped=self._is_stopped.copy(),
            answer_class=np.where(is_finished, self._answers[:started], NO_ANSWER),
        )

    def prefix(self, trace: int) -> Prefix:
        """What trace ``trace`` has generated so far."""
        recorded, n_tokens = self._traces[trace], int(self._n_tokens[trace])
        return Prefix(recorded, n_tokens, is_finished=n_tokens >= recorded.n_tokens)

    @property
    def tokens_generated(self) -> int:
        """Tokens served, counted as they were served."""
        return self._tokens_generated

    @property
    def seconds(self) -> float:
        """Virtual seconds since the question was opened."""
        return self._ticks * self._seconds_per_token

    def close(self) -> None:
        """Stop whatever still runs."""
        self._is_stopped[:] = True
