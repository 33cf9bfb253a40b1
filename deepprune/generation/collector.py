"""Collection of traces for a set of questions, from one engine or several.

Each finished trace is written to the journal. When a question has all its traces, their answers are
classed and the traces move to the store, in one part with those of other questions. Traces in the
store or the journal are not generated again.
"""

from __future__ import annotations

import errno
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.files import NO_SPACE, write_atomic
from deepprune.core.types import Question, Trace
from deepprune.generation.backend import EngineError, RequestError
from deepprune.generation.live import LiveEngine
from deepprune.traces.classes import class_answers
from deepprune.traces.journal import TraceJournal
from deepprune.traces.manifest import MANIFEST
from deepprune.traces.store import TraceStore

STORE, JOURNAL, FAILED = "traces", "journal.jsonl", "failed.jsonl"

_PART_TRACES = 1024
_PART_S = 600.0
_LOOK_S = 1.0

_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class RecordingError(RuntimeError):
    """Traces cannot be written to disk; the message is one line for users."""


def recording_error(folder: Path | str, error: OSError) -> RecordingError | None:
    """Explain why ``folder`` cannot be written to; ``None`` for any other error."""
    if error.errno not in (*NO_SPACE, *_FORBIDDEN):
        return None
    cure = "make room there" if error.errno in NO_SPACE else "make it writable"
    return RecordingError(
        f"{folder} cannot be written to ({error.strerror}): {cure}, then repeat the command with "
        "the same hydra.run.dir; recorded traces are kept."
    )


def generated_store(path: Path, engine: LiveEngine, provenance: Mapping[str, Any]) -> TraceStore:
    """Open the store of the traces of ``engine``, or create it."""
    if (path / MANIFEST).exists():
        return TraceStore.open(path)
    return TraceStore.create(
        path,
        token_counter=engine.backend.token_counter,
        answers=engine.prompt.answer_style,
        sampling=engine.facts(),
        provenance=provenance,
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that failed, and why."""

    dataset: str
    question_id: str
    sample_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a collection.

    Attributes:
        n_traces: Traces recorded, including earlier starts.
        n_wanted: Total number of traces.
        n_tokens: Tokens generated in this start, including running traces.
        seconds: Elapsed since the engines were ready.
    """

    n_traces: int
    n_wanted: int
    n_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Collected:
    """Result of a collection.

    Attributes:
        store: The traces; ``None`` if no question has all its traces.
        progress: Progress at the end.
        failed: Questions that failed; the next start retries them.
    """

    store: TraceStore | None
    progress: Progress
    failed: Sequence[Failure]


class Collector:
    """Collects traces into a folder, or resumes an interrupted collection there.

    The folder contains the store ``traces``, ``journal.jsonl`` with finished traces that are not in
    the store yet, and ``failed.jsonl`` with the questions that failed in the last start.

    Args:
        engines: Engines of one model, by a name for messages. They are closed at the end.
        folder: Where traces are recorded.
        n: Traces per question, >= 1.
        concurrency: Maximum number of running traces per engine, >= 1.
        seed: Seed of the sampling; that of a trace depends on it, the question and the sample.
        provenance: Origin of the questions, for the store's manifest.
        on_progress: Receives the progress about once per second.
        say: Receives messages for the user, one line each.
        held: Context in which files are written; the caller defers interrupts in it.
        part_traces: Number of complete traces at which a part of the store is written.
        part_s: Seconds after the last part at which a smaller one is written.
    """

    def __init__(
        self,
        engines: Mapping[str, LiveEngine],
        folder: Path,
        *,
        n: int,
        concurrency: int,
        seed: int,
        provenance: Mapping[str, Any],
        on_progress: Callable[[Progress], None] = lambda progress: None,
        say: Callable[[str], None] = print,
        held: Callable[[], AbstractContextManager[None]] = nullcontext,
        part_traces: int = _PART_TRACES,
        part_s: float = _PART_S,
    ) -> None:
        self._engines = engines
        self._alive = dict(engines)
        self._folder = folder
        self._n = n
        self._concurrency = concurrency
        self._seed = seed
        self._provenance = provenance
        self._on_progress = on_progress
        self._say = say
        self._held = held
        self._part_traces = part_traces
        self._part_s = part_s
        self._jobs: deque[tuple[Question, int]] = deque()  # question and sample
        self._running: dict[Future[Trace], tuple[str, Question, int]] = {}  # engine, job
        self._ended: SimpleQueue[Future[Trace]] = SimpleQueue()
        self._traces: dict[tuple[str, str], dict[int, Trace]] = {}  # of incomplete questions
        self._complete: list[Trace] = []  # of complete ones, not yet handed to the writer
        self._storing: tuple[Future[None], list[Trace]] | None = None
        self._failed: dict[tuple[str, str], Failure] = {}
        self._store: TraceStore | None = None
        self._n_recorded = self._n_wanted = 0
        self._began = self._last_part = time.monotonic()

    def run(self, questions: Sequence[Question]) -> Collected:
        """Collect the missing traces of ``questions``; start no engine if there are none.

        Raises:
            InputError: If the folder has traces of another model, or an engine cannot start.
            EngineError: If no engine is left. Finished traces are recorded.
            RecordingError: If writing to disk fails. Traces recorded before are kept.
        """
        try:
            with self._recording():
                journal = TraceJournal(self._folder / JOURNAL)
            with journal, ThreadPoolExecutor(1, "deepprune-store") as writer:
                self._journal, self._writer = journal, writer
                models = self._plan(questions)
                if self._jobs or self._complete:
                    self._start(models)
                    self._work()
                else:
                    n = self._n_wanted
                    self._say(f"all {n:,} traces are recorded already; no engine is started")
                store = self._store if self._store is not None and self._store.models else None
                return Collected(store, self._progress(), list(self._failed.values()))
        finally:
            with self._held():
                self._close()

    def _plan(self, questions: Sequence[Question]) -> set[str]:
        """Read the recorded traces and queue the missing ones; return the recorded models."""
        stored: set[tuple[str, str]] = set()
        models = {trace.model for trace in self._journal.traces}
        if (self._folder / STORE / MANIFEST).exists():
            self._store = TraceStore.open(self._folder / STORE)
            if self._store.models:
                stored = {ref.key[:2] for ref in self._store.refs()}
                models |= set(self._store.models)
        self._traces = {q.key: {} for q in questions if q.key not in stored}
        leftover = []  # in the store and the journal, after a crash between the two writes
        for trace in self._journal.traces:
            key = trace.question.key
            if key in stored:
                leftover.append(trace)
            elif key in self._traces:
                self._traces[key][trace.sample_id] = trace
        with self._recording():
            write_atomic(self._folder / FAILED, "")
            if leftover:
                self._journal.drop(leftover)
        self._n_wanted = self._n * len(questions)
        self._n_recorded = self._n * (len(questions) - len(self._traces))
        for question in questions:
            if (traces := self._traces.get(question.key)) is not None:
                self._n_recorded += len(traces)
                self._jobs += [(question, i) for i in range(self._n) if i not in traces]
                self._check_complete(question)
        return models

    def _start(self, recorded: set[str]) -> None:
        """Start the engines, which must serve the one model that is recorded."""
        for name, engine in self._engines.items():
            try:
                engine.start()
            except EngineError as error:
                self._lose(name, error)
        models = {engine.model: name for name, engine in self._alive.items()}
        if len(models) > 1:
            served = ", ".join(f"{name} {model!r}" for model, name in models.items())
            raise InputError(f"replicas must serve one model, but they serve: {served}.")
        if others := sorted(recorded - {*models}):
            raise InputError(
                f"{self._folder} has traces of {others[0]!r}, but the engine serves "
                f"{next(iter(models))!r}: resume with the same model, or choose another "
                "hydra.run.dir."
            )
        if self._store is not None:
            self._check_same_model(self._store)
        else:
            with self._recording():
                engine = next(iter(self._alive.values()))
                self._store = generated_store(self._folder / STORE, engine, self._provenance)
        self._began = self._last_part = time.monotonic()

    def _check_same_model(self, store: TraceStore) -> None:
        """Check by its hash that a local model or tokenizer has not changed since ``store``."""
        before = store.manifest.provenance.get("engine", {})
        for name, now in self._provenance.get("engine", {}).items():
            if name.endswith("_sha256") and before.get(name, now) != now:
                raise InputError(
                    f"engine.{name.removesuffix('_sha256')} has changed since {self._folder} was "
                    f"begun (hash {before[name][:12]}, now {now[:12]}): restore it, or choose "
                    "another hydra.run.dir."
                )

    def _check_complete(self, question: Question) -> None:
        if len(self._traces[question.key]) >= self._n:
            traces = self._traces.pop(question.key)
            self._complete += [traces[i] for i in sorted(traces)]

    def _work(self) -> None:
        try:
            while self._submit():
                self._take(self._next())
                self._store_complete()
                self._on_progress(self._progress())
        except (EngineError, KeyboardInterrupt):
            self._record(list(self._running))
            raise
        self._store_complete(all_of_it=True)
        self._on_progress(self._progress())

    def _submit(self) -> bool:
        """Start jobs on the least busy engines; return whether any are running."""
        while self._jobs:
            busy = Counter(name for name, *_ in self._running.values())
            name = min(self._alive, key=lambda name: busy[name])
            if busy[name] >= self._concurrency:
                break
            question, sample_id = self._jobs.popleft()
            if question.key not in self._failed:
                future = self._alive[name].generate(question, sample_id, self._seed)
                self._running[future] = name, question, sample_id
                future.add_done_callback(self._ended.put)
        return bool(self._running)

    def _next(self) -> list[Future[Trace]]:
        """Wait up to a second for requests to end, and return those that have."""
        try:
            first = self._ended.get(timeout=_LOOK_S)
        except Empty:
            return []
        return [first, *(self._ended.get() for _ in range(self._ended.qsize()))]

    def _take(self, ended: Sequence[Future[Trace]]) -> None:
        """Record finished traces and failures; requeue the traces of a lost engine."""
        self._record(ended)
        for future in ended:
            if future not in self._running:  # recorded, or requeued from a lost engine
                continue
            name, question, sample_id = self._running.pop(future)
            error = _error(future)
            if isinstance(error, RequestError):
                self._fail(question, sample_id, str(error))
            elif isinstance(error, EngineError):
                self._jobs.appendleft((question, sample_id))
                self._lose(name, error)
            elif error is not None:
                raise error

    def _record(self, futures: Sequence[Future[Trace]]) -> None:
        finished = [f for f in futures if f in self._running and f.done() and _error(f) is None]
        if not finished:
            return
        with self._recording():
            self._journal.append([future.result() for future in finished])
            for future in finished:
                _, question, sample_id = self._running.pop(future)
                self._traces[question.key][sample_id] = future.result()
                self._n_recorded += 1
                self._check_complete(question)

    def _fail(self, question: Question, sample_id: int, reason: str) -> None:
        """Record that a question failed; its running traces continue."""
        if question.key in self._failed:
            return
        failure = Failure(question.dataset, question.question_id, sample_id, reason)
        self._failed[question.key] = failure
        with self._recording(), (self._folder / FAILED).open("a") as file:
            file.write(json.dumps(asdict(failure)) + "\n")

    def _lose(self, name: str, error: EngineError) -> None:
        """Stop using an engine and requeue its jobs.

        Raises:
            EngineError: If no engine is left.
        """
        del self._alive[name]
        lost = [future for future, job in self._running.items() if job[0] == name]
        self._record(lost)
        for future in reversed(lost):
            if future in self._running:
                self._jobs.appendleft(self._running.pop(future)[1:])
                future.cancel()
        if not self._alive:
            of = f"{name}: " if len(self._engines) > 1 else ""
            raise EngineError(f"{of}{error}") from error
        self._say(f"{name} is lost ({error}); {len(self._alive)} replicas continue")

    def _store_complete(self, all_of_it: bool = False) -> None:
        """Class and store complete questions in a thread, so that the engines keep running."""
        while True:
            if self._storing is not None:
                future, traces = self._storing
                if not (all_of_it or future.done()):
                    return
                wait([future])  # outside _recording(), which defers interrupts
                with self._recording():
                    future.result()
                    self._storing = None
                    self._journal.drop(traces)
            n = len(self._complete)
            is_late = time.monotonic() - self._last_part >= self._part_s
            if not n or not (all_of_it or is_late or n >= self._part_traces):
                return
            traces, self._complete = self._complete, []
            self._last_part = time.monotonic()
            assert self._store is not None
            self._storing = self._writer.submit(_store, self._store, traces), traces

    def _progress(self) -> Progress:
        n_tokens = sum(engine.n_tokens for engine in self._engines.values())
        seconds = time.monotonic() - self._began
        return Progress(self._n_recorded, self._n_wanted, n_tokens, seconds)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Defer interrupts while writing to the folder, and explain errors of the disk."""
        with self._held():
            try:
                yield
            except OSError as error:
                if (refused := recording_error(self._folder, error)) is None:
                    raise
                raise refused from error

    def _close(self) -> None:
        running, self._running = self._running, {}
        for future in running:
            future.cancel()
        for engine in self._engines.values():
            with suppress(EngineError):  # a lost engine may raise it again
                engine.close()


def _error(future: Future[Trace]) -> BaseException | None:
    if future.cancelled():  # by the engine: the collector forgets a future before cancelling it
        return EngineError("the engine was closed.")
    return future.exception()


def _store(store: TraceStore, traces: Sequence[Trace]) -> None:
    classed, counts = class_answers(traces)
    store.append(classed, **counts)
