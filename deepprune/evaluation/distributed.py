"""Processes that evaluate the questions of a sweep: this one, several, or a Ray cluster.

Each yields the same outcomes, in the order of the tasks: a question depends on its seed alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Annotated, Any

from deepprune.core.errors import InputError
from deepprune.core.options import Count, Ge, checked
from deepprune.evaluation.outcomes import QuestionOutcomes
from deepprune.evaluation.runner import QuestionRunner, Task

QUESTIONS_A_PROCESS = 10
"""With fewer questions, another process costs more time to start than it saves."""


Work = Callable[[Sequence[Task]], Iterator[QuestionOutcomes]]
"""Yields the outcomes of tasks in their order, each once it is complete."""


@checked
class Processes:
    """Processes of this machine.

    Args:
        n: Number of processes; ``None`` for one per core, but a single one for few questions or a
            judge that is a neural network, which uses the cores or the GPU itself. 1 is this
            process.
    """

    def __init__(self, n: Count | None = None) -> None:
        self.n = n

    @contextmanager
    def workers(self, runner: QuestionRunner, n_questions: int) -> Iterator[Work]:
        """Start the processes; the end of the context ends them, also after an error."""
        n = self.n or _fitting(runner, n_questions)
        if n == 1:
            yield lambda tasks: map(runner, tasks)
            return
        pool = ProcessPoolExecutor(n, get_context("spawn"), _take, (runner, n))
        try:
            yield lambda tasks: _in_order(pool, tasks, most_waiting=4 * n)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], most_waiting: int
) -> Iterator[QuestionOutcomes]:
    waiting: deque[Future[QuestionOutcomes]] = deque()
    for task in tasks:
        waiting.append(pool.submit(_do, task))
        if len(waiting) >= most_waiting:  # else results pile up
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fitting(runner: QuestionRunner, n_questions: int) -> int:
    if runner.has_model:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, n_questions // QUESTIONS_A_PROCESS))


_runner: QuestionRunner


def _take(runner: QuestionRunner, n: int) -> None:
    """Initialise a worker process: set its runner and its share of the cores."""
    global _runner
    _runner = runner
    Thread(target=_end_with_parent, daemon=True).start()
    if runner.has_model:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // n))


def _end_with_parent() -> None:
    """End this process with its parent: the worker of a killed parent would wait forever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(task: Task) -> QuestionOutcomes:
    return _runner(task)


@checked
class Ray:
    """A Ray cluster; its machines must see the trace store under the same path.

    Args:
        n: Actors, each on ``cpus`` cores.
        address: Address of the cluster, e.g. ``auto``; ``None`` starts one on this machine.
        cpus: Cores of an actor.
        gpus: GPUs of an actor, for a judge that is a neural network; may be a fraction.

    Raises:
        InputError: If Ray is missing.
    """

    def __init__(
        self,
        n: Count = 2,
        address: str | None = None,
        cpus: float = 1,
        gpus: Annotated[float, Ge(0)] = 0,
    ) -> None:
        if find_spec("ray") is None:
            raise InputError("distributed=ray needs Ray: pip install 'deepprune[ray]'.")
        self.n, self.address, self.cpus, self.gpus = n, address, cpus, gpus

    @contextmanager
    def workers(self, runner: QuestionRunner, n_questions: int) -> Iterator[Work]:
        """Start the actors, and a cluster on this machine if no address is given."""
        import ray
        from ray.util import ActorPool

        is_mine = not ray.is_initialized()
        if is_mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cores = max(1, round(self.n * self.cpus)) if self.address is None else None
            ray.init(self.address, num_cpus=cores, log_to_driver=False, include_dashboard=False)
        try:
            remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(_Actor)
            shared = ray.put(runner)
            pool: Any = ActorPool([remote.remote(shared) for _ in range(self.n)])
            yield lambda tasks: pool.map(lambda actor, task: actor.do.remote(task), tasks)
        finally:
            if is_mine:
                with suppress(Exception):
                    ray.shutdown()


class _Actor:
    """Evaluates tasks in a process of a Ray cluster."""

    def __init__(self, runner: QuestionRunner) -> None:
        self._runner = runner

    def do(self, task: Task) -> QuestionOutcomes:
        return self._runner(task)


Distributed = Processes | Ray
"""Where the questions are evaluated; ``workers`` starts it and ends it with the context."""
