"""``deepprune prune``: questions pruned while their traces are generated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from typing import Any, TextIO

from rich.console import Console

from deepprune.commands.interrupts import Interrupts
from deepprune.commands.run import Run, command_run
from deepprune.config.plans import PrunePlan
from deepprune.core.errors import InputError
from deepprune.core.files import NO_SPACE
from deepprune.core.protocols import Need, Session
from deepprune.core.provenance import EVENTS
from deepprune.core.types import Question, QuestionRef
from deepprune.data.splits import question_hash
from deepprune.evaluation.runner import MakeEngine
from deepprune.evaluation.selection import unmet_needs
from deepprune.evaluation.watcher import Watcher
from deepprune.generation.backend import EngineError
from deepprune.generation.questions import questions_hash
from deepprune.judge.base import Judge
from deepprune.live.events import EventLines
from deepprune.live.guard import JudgeWorker
from deepprune.live.pruner import LivePruner, OpenSession
from deepprune.live.question import LiveResult
from deepprune.live.record import RESULTS, LiveRecord, recorded_lengths
from deepprune.live.summary import live_estimates, live_table, tokens_figure
from deepprune.live.view import LiveView, ProgressLines, one_line
from deepprune.report.figures import drawn
from deepprune.report.tables import show
from deepprune.traces import TraceStore
from deepprune.traces.manifest import NO_SEEDS
from deepprune.traces.summary import mean_lengths
from deepprune.traces.tokens import token_ends

FIGURE = "tokens.png"


def prune(plan: PrunePlan) -> Run:
    """Prune the questions of ``conf/prune.yaml``; checks everything cheap before a model loads."""
    try:
        return _prune(plan)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise InputError(
            f"the disk is full ({error}): what is stored is whole; make room, then the same "
            "command with the same hydra.run.dir goes on."
        ) from error


def _prune(plan: PrunePlan) -> Run:
    questions, output = plan.questions, sys.stdout
    judge_hash = None if plan.judge is None else plan.judge.sha256
    inputs = {"questions": questions_hash(questions), "judge": judge_hash}
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        source = stack.enter_context(_source(plan, interrupts))
        stack.enter_context(redirect_stdout(_stdout(plan.view)))
        run = stack.enter_context(command_run(plan.run, inputs | source.inputs))
        run.results_path = run.folder / RESULTS
        record = LiveRecord(run.folder, plan.engine, questions)
        try:
            source.start()
            record.check_model(source.model)
            _check_can_force(plan)
            judge = None if plan.judge is None else plan.judge.load()
            if judge is not None:
                judge.prepare(None)
            size = plan.generator(source.model)
            pruner = LivePruner(
                source.open,
                source.model,
                plan.policy,
                judge,
                JudgeWorker(plan.judge_timeout_s),
                plan.n_traces,
                plan.seed,
                size,
            )
            _say_beforehand(judge, size, questions, source.model)
            prior = None if plan.engine is None else plan.engine.prior_length
            if prior is not None and hasattr(plan.policy, "budget"):
                print(
                    f"mean trace length before the first question: {prior:g} tokens "
                    "(live.prior_length)"
                )

            def mean_length(question: Question) -> float:
                if prior is not None:
                    return record.mean_length(prior)
                return source.mean_lengths[question.key]

            _prune_all(pruner, record, mean_length, plan.view, output, interrupts)
        except EngineError as error:
            run.status = "failed"
            print(f"error: the engine is lost: {one_line(str(error))}", file=sys.stderr)
        except KeyboardInterrupt as interrupt:
            raise type(interrupt)(
                f"interrupted; {record.said}; the same command with hydra.run.dir={run.folder} "
                "goes on"
            ) from None
        _conclude(run, record.rows, plan)
    _answer_last(record.rows, questions, plan.view, output)
    return run


class _Source:
    """Source of traces: an engine that generates them, or a store that is replayed.

    Attributes:
        model: What generates them, or did.
        inputs: Hashes of what is replayed.
        mean_lengths: Mean trace length of each question that is replayed.
    """

    def __init__(self, plan: PrunePlan) -> None:
        self._engine = plan.engine
        self.inputs: dict[str, str | None] = {}
        self.mean_lengths: dict[tuple[str, str], float] = {}
        self.open: OpenSession
        self.model: str
        if plan.recorded is not None:
            _check_recorded(plan.recorded, plan.needs)
        if plan.engine is not None:
            self.open = plan.engine.open
        else:
            assert plan.recorded is not None
            assert plan.make_replay is not None
            self._replay(plan.recorded, plan.make_replay, plan.questions)

    def _replay(
        self, store: TraceStore, make_engine: MakeEngine, questions: Sequence[Question]
    ) -> None:
        self.inputs = {"traces": store.content_hash}
        if len(store.models) > 1:
            raise InputError(
                f"a replay is of one model, and {store.path} has {', '.join(store.models)}: "
                "import one of them into a store of its own."
            )
        (self.model,) = store.models
        refs: Mapping[Any, QuestionRef] = {ref.key: ref for ref in store.refs()}
        for question in questions:
            if (*question.key, self.model) not in refs:
                raise InputError(
                    f"{store.path} has no traces of question {question.question_id!r}: leave "
                    "questions out to replay all that it has."
                )

        others = {key[:2]: length for key, length in mean_lengths(store).items()}
        self.mean_lengths = others | recorded_lengths(store)

        def open_recording(question: Question, model: str, n_traces: int, seed: int) -> Session:
            group = store.group(refs[*question.key, model])
            n = min(n_traces, len(group.traces))  # a live run records what it started
            (prompt,) = token_ends([question.text])
            return make_engine(group, len(prompt)).open(n, seed)

        self.open = open_recording

    def start(self) -> None:
        """Load the model, or connect: a server tells its model then."""
        if self._engine is not None:
            self._engine.start()
            self.model = self._engine.model

    def close(self) -> None:
        """Free what the engine holds."""
        if self._engine is not None:
            self._engine.close()


def _check_recorded(store: TraceStore, needs: frozenset[Need]) -> None:
    """Check that the traces of some question have what policy and judge read."""
    missing = [unmet_needs(needs, store.group(ref)) for ref in store.refs()]
    if all(missing):
        raise InputError(
            f"the policy needs {' and '.join(missing[0])}, which these traces do not have: choose "
            "another pruning=NAME, another judge=NAME, or other traces."
        )


@contextmanager
def _source(plan: PrunePlan, interrupts: Interrupts) -> Iterator[_Source]:
    source = _Source(plan)
    try:
        yield source
    finally:
        with interrupts.held():
            source.close()


def _check_can_force(plan: PrunePlan) -> None:
    engine = plan.engine
    if Need.FORCED_ANSWERS in plan.needs and engine and not engine.backend.can_continue:
        raise InputError(
            f"{plan.policy.name} forces answers out of prefixes, and the server of "
            f"{engine.model!r} cannot go on from a prefix: take another pruning=NAME, or a server "
            "with /v1/completions."
        )


def _prune_all(
    pruner: LivePruner,
    record: LiveRecord,
    mean_length: Callable[[Question], float],
    view: str,
    output: TextIO,
    interrupts: Interrupts,
) -> None:
    """Prune one question after the other; skip those that are decided already."""
    questions = record.questions
    todo = [question for question in questions if not record.is_decided(question)]
    if len(todo) < len(questions):
        print(f"{len(questions) - len(todo)} of {len(questions)} questions are decided already")
    with ExitStack() as stack:
        events = (record.folder / EVENTS).open("a", encoding="utf-8")
        watchers: list[Watcher] = [EventLines(stack.enter_context(events))]
        if view == "json":
            watchers.append(EventLines(output))
        elif view == "live":
            about = (pruner.title, len(todo))
            if Console().is_terminal:
                watchers.append(stack.enter_context(LiveView(*about)))
            else:
                watchers.append(ProgressLines(*about))
        for question in todo:
            with interrupts.held():
                length = mean_length(question)
                done = pruner.prune(question, watchers, interrupts.heard, length)
                record.write(done)
                for watcher in watchers:
                    watcher.on_question_end(done.live, done.row)
            if done.error is not None and (
                isinstance(done.error, EngineError) or not isinstance(done.error, Exception)
            ):
                raise done.error


def _say_beforehand(
    judge: Judge | None, size: object | None, questions: Sequence[Question], model: str
) -> None:
    """Print what limits the figures to come."""
    if size is None:
        print(
            f"no net saving is claimed: the size of {one_line(repr(model))} is not known; give it "
            'with generator="{params: 7.5e9, layers: 32, hidden: 4096}"'
        )
    seen = judge.provenance.seen_questions if judge is not None else frozenset()
    if n := sum(question_hash(question.text) in seen for question in questions):
        print(f"the judge was trained on {n} of the {len(questions)} questions")


def _conclude(run: Run, rows: Sequence[LiveResult], plan: PrunePlan) -> None:
    """Summarise: metrics, table, figure, W&B. A failed question fails the run."""
    questions = plan.questions
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        run.status = "failed"
        reason = one_line(failed[0]["reason"])
        print(f"{len(failed)} of {len(questions)} questions failed: {reason}", file=sys.stderr)
    fallbacks = [row for row in rows if row["status"] == "ok" and row["fallback"]]
    if fallbacks:
        print(
            f"{len(fallbacks)} of {len(questions)} questions were decided unpruned: "
            f"{one_line(fallbacks[0]['fallback'])}",
            file=sys.stderr,
        )
    if n_failed := sum(row["n_failed"] for row in rows):
        started = sum(row["n_started"] for row in rows)
        print(f"{n_failed} of {started} traces failed: they have no vote", file=sys.stderr)
    if plan.engine is not None and "seed" in plan.engine.backend.omitted:
        print(NO_SEEDS, file=sys.stderr)
    if not rows:
        return
    run.metrics |= live_estimates(rows, plan.seed)
    run.point = plan.policy.name
    if len(questions) > 1:
        show(live_table(rows, f"{plan.policy.name}, N = {plan.n_traces}", plan.seed))
    figure = drawn(tokens_figure, rows, run.folder / FIGURE)
    if figure is not None:
        print(f"figure: {figure}")
    run.tracker.table("prune/questions", rows)
    run.tracker.figure("prune/tokens", figure)
    run.tracker.values("prune", run.metrics)


def _answer_last(
    rows: Sequence[LiveResult], questions: Sequence[Question], view: str, output: TextIO
) -> None:
    """Print the answer of a single question; with ``view=json`` the last event has it."""
    if len(questions) == 1 and rows and rows[0]["status"] == "ok" and view != "json":
        print(
            "no answer" if rows[0]["answer"] is None else one_line(rows[0]["answer"]), file=output
        )


def _stdout(view: str) -> TextIO:
    """Return the stream for lines that are not part of the view."""
    return {"live": sys.stdout, "json": sys.stderr, "none": StringIO()}[view]
