"""Guards a live question against a judge that fails or hangs: only the pruning is lost then."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from deepprune.core.protocols import FloatArray, IntArray, Session
from deepprune.evaluation.scores import QuestionScores, RunEvidence
from deepprune.generation.backend import EngineError
from deepprune.judge.base import Judge
from deepprune.pruning.controller import JudgeError

T = TypeVar("T")


class JudgeWorker:
    """Daemon thread in which the judge computes: one that hangs blocks neither question nor exit.

    While an earlier call hangs, a new one fails at once.

    Args:
        timeout_s: Time limit of one call, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._last: Future[Any] | None = None
        threading.Thread(target=self._work, name="deepprune-judge", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the thread; return its result or raise its exception.

        Raises:
            JudgeError: If it takes longer than ``timeout_s``, or an earlier call still does.
        """
        if self._last is not None and not self._last.done():
            raise JudgeError("the judge still hangs in an earlier call")
        future: Future[T] = Future()
        self._last = future

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # raised by ``result`` in the caller's thread
                future.set_exception(error)

        self._jobs.put(job)
        try:
            return future.result(self.timeout_s)
        except TimeoutError:
            if future.done():  # it ended just now, or the judge itself raised the TimeoutError
                return future.result()
            raise JudgeError(
                f"the judge took longer than prune.judge_timeout_s={self.timeout_s:g} seconds"
            ) from None


class GuardedEvidence(RunEvidence):
    """``Evidence`` whose judge may fail: a `JudgeError` lets the controller continue without it.

    Attributes:
        seconds: Time spent waiting for the judge.
        n_scores: Pairs scored so far; the same pair counts each time.
    """

    def __init__(
        self,
        judge: Judge | None,
        session: Session,
        worker: JudgeWorker,
        mean_length: float | None = None,
    ) -> None:
        super().__init__(None if judge is None else QuestionScores(judge), session, mean_length)
        self._judge = judge
        self._worker = worker
        self.seconds = 0.0
        self.n_scores = 0

    def score(self, pairs: IntArray) -> FloatArray:
        """Return the judge's scores of pairs of trace indices, shape ``(P, 2)`` -> ``(P,)``.

        Raises:
            JudgeError: If the judge raises, returns no valid score, or takes too long.
            EngineError: If the engine is lost meanwhile.
        """
        score, began = super().score, time.monotonic()
        try:
            scores = self._worker.call(lambda: score(pairs))
        except (JudgeError, EngineError):
            raise
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            name = None if self._judge is None else self._judge.provenance.name
            raise JudgeError(f"the judge {name!r} failed: {said}") from error
        finally:
            self.seconds += time.monotonic() - began
        self.n_scores += len(pairs)
        return scores
