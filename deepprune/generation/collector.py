"""Collection of traces for a set of questions, from one engine or several.

Each finished trace is written to the journal. When a question has all its traces, their answers are
classed and the traces move to the store, in one part with those of other questions. Traces in the
store or the journal are not generated again.
"""

from __future__ import annotations

import errno
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.files import NO_SPACE, write_atomic
from deepprune.core.types import Question, Trace
from deepprune.generation.backend import EngineError, RequestError
from deepprune.generation.live import LiveEngine
from deepprune.traces.classes import class_answers
from deepprune.traces.formats import SourceFile
from deepprune.traces.journal import TraceJournal
from deepprune.traces.manifest import MANIFEST
from deepprune.traces.store import TraceStore

STORE, JOURNAL, FAILED = "traces", "journal.jsonl", "failed.jsonl"

_PART_TRACES = 1024
_PART_S = 600.0
_LOOK_S = 1.0

_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_SURROGATE = re.compile("[\ud800-\udfff]")


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
        token_counter=engine.token_counter,
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


@dataclass
class _Question:
    """A question in progress, with its traces so far by sample."""

    question: Question
    traces: dict[int, Trace] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True)
class _Job:
    question: _Question
    sample_id: int


@dataclass
class _Replica:
    """An engine and its running jobs."""

    name: str
    engine: LiveEngine
    running: dict[Future[Trace], _Job] = field(default_factory=dict)
    is_lost: bool = False


class Collector:
    """Collects traces into a folder, or resumes an interrupted collection there.

    The folder contains the store ``traces``, ``journal.jsonl`` with finished traces that are not in
    the store yet, and ``failed.jsonl`` with the questions that failed in the last start.

    Args:
        engines: Engines of one model, by a name for messages. They are closed at the end.
        folder: The folder.
        n: Traces per question, >= 1.
        concurrency: Maximum number of running traces per engine, >= 1.
        seed: Seed of the sampling; that of a trace depends on it, the question and the sample.
        provenance: Origin of the questions, for the store's manifest.
        on_progress: Called about once per second.
        say: Called with messages for the user, one line each.
        held: Context in which files are written; the caller defers interrupts in it.
        part_traces: A part of the store is written when this many traces are complete,
        part_s: or when any are complete this many seconds after the last part.
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
        self._replicas = [_Replica(name, engine) for name, engine in engines.items()]
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
        self._ended: SimpleQueue[tuple[_Replica, Future[Trace]]] = SimpleQueue()
        self._jobs: deque[_Job] = deque()
        self._complete: list[_Question] = []  # not yet handed to the writer of the store
        self._storing: tuple[Future[None], list[Trace]] | None = None
        self._failed: list[Failure] = []
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
            if (finished := self._finished(questions)) is not None:
                return finished
            model = self._start()
            with self._recording():
                engine = self._alive[0].engine
                store = generated_store(self._folder / STORE, engine, self._provenance)
                write_atomic(self._folder / FAILED, "")
                journal = TraceJournal(self._folder / JOURNAL)
            with journal, ThreadPoolExecutor(1, "deepprune-store") as writer:
                self._store, self._journal, self._writer = store, journal, writer
                self._plan(questions, model)
                self._work()
                progress = self._progress()
            return Collected(store if store.models else None, progress, self._failed)
        finally:
            with self._held():
                self._close()

    def _finished(self, questions: Sequence[Question]) -> Collected | None:
        """Return the result of an earlier start that completed all questions, if any."""
        if not (self._folder / STORE / MANIFEST).exists():
            return None
        store = TraceStore.open(self._folder / STORE)
        refs = store.refs() if store.models else []
        stored = {ref.key[:2] for ref in refs if ref.n_traces >= self._n}
        if not all(question.key in stored for question in questions):
            return None
        with self._recording(), TraceJournal(self._folder / JOURNAL) as journal:
            journal.drop([trace for trace in journal.traces if trace.question.key in stored])
            write_atomic(self._folder / FAILED, "")
        n_traces = self._n * len(questions)
        self._say(f"all {n_traces:,} traces are recorded already; no engine is started")
        return Collected(store, Progress(n_traces, n_traces, 0, 0.0), [])

    def _start(self) -> str:
        """Start the engines and return their model."""
        for replica in self._replicas:
            try:
                replica.engine.start()
            except EngineError as error:
                self._lose(replica, error)
        models = {r.engine.model: r.name for r in self._alive}
        if len(models) > 1:
            served = ", ".join(f"{name} {model!r}" for model, name in models.items())
            raise InputError(f"replicas must serve one model, but they serve: {served}.")
        self._began = self._last_part = time.monotonic()
        return next(iter(models))

    @property
    def _alive(self) -> list[_Replica]:
        return [replica for replica in self._replicas if not replica.is_lost]

    def _plan(self, questions: Sequence[Question], model: str) -> None:
        """Read the recorded traces and queue the missing ones."""
        stored = {ref.key: ref.n_traces for ref in self._store.refs()} if self._store.models else {}
        there = {key[2] for key in stored} | {trace.model for trace in self._journal.traces}
        if others := sorted(there - {model}):
            raise InputError(
                f"{self._folder} has traces of {others[0]!r}, but the engine serves {model!r}: "
                "resume with the same model, or choose another hydra.run.dir."
            )
        works = {question.key: _Question(question) for question in questions}
        leftover = []  # in the store and the journal, after a crash between the two writes
        for trace in self._journal.traces:
            name = trace.question.key
            if (*name, model) in stored:
                leftover.append(trace)
            elif name in works:
                works[name].traces[trace.sample_id] = trace
        if leftover:
            with self._recording():
                self._journal.drop(leftover)
        self._n_wanted = self._n * len(works)
        for name, work in works.items():
            if (*name, model) in stored:
                self._n_recorded += self._n
                continue
            self._n_recorded += len(work.traces)
            missing = [i for i in range(self._n) if i not in work.traces]
            self._jobs.extend(_Job(work, i) for i in missing)
            if not missing:
                self._complete.append(work)

    def _work(self) -> None:
        """Generate and record all missing traces."""
        try:
            while self._submit():
                self._take(self._next())
                self._store_complete()
                self._on_progress(self._progress())
        except (EngineError, KeyboardInterrupt):
            self._record([(r, future) for r in self._replicas for future in r.running])
            raise
        self._store_complete(all_of_it=True)
        self._on_progress(self._progress())

    def _submit(self) -> bool:
        """Start jobs on the least busy engines; return whether any are running."""
        while self._jobs:
            replica = min(self._alive, key=lambda r: len(r.running))
            if len(replica.running) >= self._concurrency:
                break
            job = self._jobs.popleft()
            if job.question.failure is not None:
                continue
            future = replica.engine.generate(job.question.question, job.sample_id, self._seed)
            replica.running[future] = job
            future.add_done_callback(lambda f, r=replica: self._ended.put((r, f)))  # type: ignore[misc]
        return any(replica.running for replica in self._replicas)

    def _next(self) -> list[tuple[_Replica, Future[Trace]]]:
        """Wait up to a second for requests to end, and return those that have."""
        try:
            first = self._ended.get(timeout=_LOOK_S)
        except Empty:
            return []
        return [first, *(self._ended.get() for _ in range(self._ended.qsize()))]

    def _take(self, ended: Sequence[tuple[_Replica, Future[Trace]]]) -> None:
        """Record finished traces and failures; requeue the traces of a lost engine."""
        self._record(ended)
        for replica, future in ended:
            job = replica.running.pop(future, None)
            if job is None:  # recorded, or requeued from a lost engine
                continue
            error = _error(future)
            if isinstance(error, RequestError):
                self._fail(job, str(error))
            elif isinstance(error, EngineError):
                self._jobs.appendleft(job)
                self._lose(replica, error)
            elif error is not None:
                raise error

    def _record(self, ended: Sequence[tuple[_Replica, Future[Trace]]]) -> None:
        """Write finished traces to the journal."""
        finished = [
            (replica, future, _writable(future.result()))
            for replica, future in ended
            if future in replica.running and future.done() and _error(future) is None
        ]
        if not finished:
            return
        with self._recording():
            self._journal.append([trace for _, _, trace in finished])
            for replica, future, trace in finished:
                job = replica.running.pop(future)
                job.question.traces[job.sample_id] = trace
                self._n_recorded += 1
                if len(job.question.traces) == self._n:
                    self._complete.append(job.question)

    def _fail(self, job: _Job, reason: str) -> None:
        """Record that a question failed; its running traces continue."""
        if job.question.failure is not None:
            return
        question = job.question.question
        failure = Failure(question.dataset, question.question_id, job.sample_id, reason)
        job.question.failure = failure
        self._failed.append(failure)
        with self._recording(), (self._folder / FAILED).open("a") as file:
            file.write(json.dumps(asdict(failure)) + "\n")

    def _lose(self, replica: _Replica, error: EngineError) -> None:
        """Stop using an engine and requeue its jobs.

        Raises:
            EngineError: If no engine is left.
        """
        replica.is_lost = True
        self._record([(replica, future) for future in replica.running])
        running, replica.running = replica.running, {}
        self._jobs.extendleft(reversed(running.values()))
        for future in running:
            future.cancel()
        if not self._alive:
            of = f"{replica.name}: " if len(self._replicas) > 1 else ""
            raise EngineError(f"{of}{error}") from error
        self._say(f"{replica.name} is lost ({error}); {len(self._alive)} replicas continue")

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
            n = sum(len(work.traces) for work in self._complete)
            is_late = time.monotonic() - self._last_part >= self._part_s
            if not n or not (all_of_it or is_late or n >= self._part_traces):
                return
            traces = [work.traces[i] for work in self._complete for i in sorted(work.traces)]
            self._complete = []
            self._last_part = time.monotonic()
            self._storing = self._writer.submit(_store, self._store, traces), traces

    def _progress(self) -> Progress:
        n_tokens = sum(replica.engine.n_tokens for replica in self._replicas)
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
        """Cancel all requests and close the engines."""
        for replica in self._replicas:
            running, replica.running = replica.running, {}
            for future in running:
                future.cancel()
        for replica in self._replicas:
            with suppress(EngineError):  # a lost engine may raise it again
                replica.engine.close()


def _error(future: Future[Trace]) -> BaseException | None:
    if future.cancelled():  # by the engine: the collector forgets a future before cancelling it
        return EngineError("the engine was closed.")
    return future.exception()


def _store(store: TraceStore, traces: Sequence[Trace]) -> None:
    classed, counts = class_answers(SourceFile("generated", list(traces)))
    store.append(classed, **counts)


def _writable(trace: Trace) -> Trace:
    """Replace halves of surrogate pairs, which some servers emit: UTF-8 cannot encode them."""
    if trace.text.isascii():
        return trace
    answer = None if trace.answer is None else _no_surrogates(trace.answer)
    forced = [
        one if one.answer is None else replace(one, answer=_no_surrogates(one.answer))
        for one in trace.forced_answers
    ]
    return replace(
        trace, text=_no_surrogates(trace.text), answer=answer, forced_answers=tuple(forced)
    )


def _no_surrogates(text: str) -> str:
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)  # same length: token ends stay valid
