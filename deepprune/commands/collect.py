"""``deepprune collect``: generate traces for a set of questions into a trace store."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from tqdm import tqdm

from deepprune.commands.interrupts import Interrupts
from deepprune.commands.run import Run, command_run, is_rank_zero
from deepprune.commands.traces import print_summary
from deepprune.config.plans import CollectPlan
from deepprune.core.errors import InputError
from deepprune.generation.backend import EngineError
from deepprune.generation.collector import (
    FAILED,
    Collected,
    Collector,
    Progress,
    RecordingError,
    recording_error,
)
from deepprune.generation.questions import questions_hash
from deepprune.traces import summarise

_LOGGED = ("dataset", "questions", "traces", "tokens", "accuracy", "same_answer")
_SHOWN_FAILURES = 5
LOCK = ".lock"
_PLAIN_EVERY_S = 30.0


def collect(plan: CollectPlan) -> Run:
    """Run ``conf/collect.yaml``, or resume an interrupted run in its folder."""
    if not is_rank_zero():
        raise InputError(
            "collect must be one process, but a launcher started several: run it once, and use "
            "several servers with engine=openai collect.replicas=[URL,...]."
        )
    inputs = {"questions": questions_hash(plan.questions)}
    stopped: Exception | None = None
    try:
        with (
            Interrupts() as interrupts,
            _alone(plan.run.folder),
            command_run(plan.run, inputs) as run,
        ):
            try:
                with _Bar() as bar:
                    collected = Collector(
                        plan.engines,
                        run.folder,
                        n=plan.n,
                        concurrency=plan.concurrency,
                        seed=plan.seed,
                        provenance=plan.provenance,
                        on_progress=bar.show,
                        say=bar.say,
                        held=interrupts.held,
                    ).run(plan.questions)
                _report(collected, len(plan.questions), run)
            except (EngineError, RecordingError, OSError) as error:
                run.status, stopped = "failed", error
    except OSError as error:  # the files of the run itself could not be written
        stopped = stopped or recording_error(plan.run.folder, error) or error
    if isinstance(stopped, EngineError | RecordingError):
        print(f"error: {' '.join(str(stopped).split())}", file=sys.stderr)
        sys.exit(1)
    if stopped is not None:
        raise stopped
    return run


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes; the lock of a dead process is void.

    Raises:
        InputError: If another process has locked it.
    """
    with (folder / LOCK).open("a") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # other errors: no locks on this disk
                raise InputError(
                    f"another process collects into {folder}: wait until it ends, or choose "
                    "another hydra.run.dir."
                ) from None
        yield


def _lock(file: TextIO) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked children do not inherit it


def _report(collected: Collected, n_questions: int, run: Run) -> None:
    """Print and log a summary of the collection."""
    progress, failed, store = collected.progress, collected.failed, collected.store
    tokens_per_s = progress.n_tokens / max(progress.seconds, 1e-9)
    logged = {"questions_failed": len(failed), "traces": progress.n_traces}
    logged |= {"tokens": progress.n_tokens, "tokens_per_s": round(tokens_per_s)}
    rows: list[dict[str, Any]] = []
    if store is not None:
        print_summary(store)
        run.results_path = store.path
        for row in summarise(store):
            rows.append({name: getattr(row, name) for name in _LOGGED})
    print(
        f"this start: {progress.n_tokens:,} tokens in {progress.seconds:,.0f} s, "
        f"{tokens_per_s:,.0f} tokens/s; {progress.n_traces:,} of {progress.n_wanted:,} traces "
        f"recorded, {len(failed)} of {n_questions} questions failed"
    )
    for failure in failed[:_SHOWN_FAILURES]:
        print(f"  {failure.dataset}/{failure.question_id}: {failure.reason}")
    if failed:
        print(f"failed: {run.folder / FAILED}; the same command retries them")
        run.status = "failed"
    if store is not None:
        run.tracker.artifact("dataset", [store.path], store.content_hash)
    run.tracker.table("collect/datasets", rows)
    run.tracker.values("collect", logged)


class _Bar:
    """Progress on stderr: traces recorded, tokens per second, estimated remaining time."""

    def __enter__(self) -> Self:
        self._bar: tqdm | None = None
        self._drawn = 0.0
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, progress: Progress) -> None:
        """Update the bar; the first call draws it."""
        if self._bar is None:
            self._bar = tqdm(
                total=progress.n_wanted,
                initial=progress.n_traces,
                desc="traces",
                unit="trace",
                smoothing=0,  # traces end in bursts
                mininterval=0.5 if sys.stderr.isatty() else _PLAIN_EVERY_S,
                dynamic_ncols=True,
            )
        rate = progress.n_tokens / max(progress.seconds, 1e-9)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        is_due = progress.seconds - self._drawn >= self._bar.mininterval
        if self._bar.update(progress.n_traces - self._bar.n) is None and is_due:
            self._bar.refresh()  # with long traces, minutes pass until one ends
            self._drawn = progress.seconds

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line, file=sys.stderr)
