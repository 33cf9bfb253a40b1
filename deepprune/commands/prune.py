"""``deepprune prune``: questions pruned while their traces are generated."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from omegaconf import DictConfig
from rich.console import Console

from deepprune.commands.run import Run, command_run
from deepprune.config import build
from deepprune.data.questions import questions_hash
from deepprune.data.splits import question_hash
from deepprune.engines.backend import EngineError
from deepprune.engines.live import LiveEngine
from deepprune.errors import InputError
from deepprune.evaluation.live import JudgeWorker, LivePruner, LiveWatcher, OpenSession, Pruned
from deepprune.evaluation.results import Row
from deepprune.evaluation.selection import unmet_needs
from deepprune.files import write_atomic
from deepprune.judge.base import Judge
from deepprune.protocols import Need, Session
from deepprune.report.figures import drawn
from deepprune.report.live_events import EventLines
from deepprune.report.live_summary import live_estimates, live_table, tokens_figure
from deepprune.report.live_view import LiveView, ProgressLines, plain
from deepprune.report.tables import show
from deepprune.traces import TraceStore, open_traces
from deepprune.traces.manifest import MANIFEST
from deepprune.types import Question, QuestionRef, Trace

RESULTS, EVENTS, FIGURE = "results.jsonl", "events.jsonl", "tokens.png"
TRACES, UNDECIDED = "traces", "undecided"


def prune(config: DictConfig) -> Run:
    """Prune the questions of ``conf/prune.yaml``; checks everything cheap before a model loads."""
    try:
        return _prune(config)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise InputError(
            f"the disk is full ({error}): what is stored is whole; make room, then the same "
            "command with the same hydra.run.dir goes on."
        ) from error


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _prune(config: DictConfig) -> Run:
    live = build.live(config)
    needs = build.live_needs(config, live.policy)
    questions = build.live_questions(config)
    inputs = {"questions": questions_hash(questions), "judge": build.judge_hash(config)}
    output = sys.stdout
    with ExitStack() as stack:
        source = stack.enter_context(_source(config, questions, needs))
        stack.enter_context(redirect_stdout(_stdout(live.view)))
        interrupts = stack.enter_context(_Interrupts())
        run = stack.enter_context(command_run(config, "prune", inputs | source.inputs))
        run.results_path = run.folder / RESULTS
        record = _Record(run.folder, source.engine)
        try:
            source.start()
            _check_can_probe(source, needs, live.policy.name)
            judge = build.judge(config) if Need.JUDGE in live.policy.needs else None
            size = build.live_generator(config, source.model)
            pruner = LivePruner(
                source.open,
                source.model,
                live.policy,
                judge,
                JudgeWorker(live.judge_timeout_s),
                live.n_traces,
                live.seed,
                size,
                config.prompt.answer_style,
            )
            _say_beforehand(judge, size, questions, source.model)
            _prune_all(pruner, questions, record, live.view, output, interrupts)
        except EngineError as error:
            run.status = "failed"
            print(f"error: the engine is lost: {plain(str(error))}", file=sys.stderr)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; {record.said}; the same command with hydra.run.dir={run.folder} "
                "goes on"
            ) from None
        _conclude(run, record.rows(questions), questions, live)
    _answer_last(record.rows(questions), questions, live.view, output)
    return run


class _Source:
    """Where traces come from: an engine that generates them, or a store that is replayed.

    Attributes:
        model: What generates them, or did.
        engine: The live one.
        inputs: Hashes of what is replayed.
    """

    def __init__(
        self, config: DictConfig, questions: Sequence[Question], needs: frozenset[Need]
    ) -> None:
        self.engine: LiveEngine | None = None
        self.inputs: dict[str, str | None] = {}
        self.open: OpenSession
        self.model: str
        if (played := build.played_traces(config)) is not None:
            _check_recorded(open_traces(played), needs)
        if build.is_replay(config):
            self._replay(config, questions)
        else:
            self.engine = build.live_engine(config)
            self.open = self.engine.open

    def _replay(self, config: DictConfig, questions: Sequence[Question]) -> None:
        store, make_engine = build.store(config), build.make_engine(config)
        self.inputs = {"traces": store.content_hash}
        if len(store.models) > 1:
            raise InputError(
                f"a replay is of one model, and {config.traces} has {', '.join(store.models)}: "
                "import one of them into a store of its own."
            )
        (self.model,) = store.models
        refs: Mapping[Any, QuestionRef] = {ref.key: ref for ref in store.refs()}
        for question in questions:
            if (question.dataset, question.question_id, self.model) not in refs:
                raise InputError(
                    f"{config.traces} has no traces of question {question.question_id!r}: leave "
                    "questions out to replay all that it has."
                )

        def open_recording(question: Question, model: str, n_traces: int, seed: int) -> Session:
            group = store.group(refs[question.dataset, question.question_id, model])
            n = min(n_traces, len(group.traces))  # a live run records what it started
            return make_engine([group]).open(group.question, model, n, seed)

        self.open = open_recording

    def start(self) -> None:
        """Load the model, or connect: a server tells its model then."""
        if self.engine is not None:
            self.engine.start()
            self.model = self.engine.model

    def close(self) -> None:
        """Free what the engine holds."""
        if self.engine is not None:
            self.engine.close()


def _check_recorded(store: TraceStore, needs: frozenset[Need]) -> None:
    """Hold what policy and judge read against recorded traces that shall be played."""
    if missing := unmet_needs(needs, store.group(store.refs()[0])):
        raise InputError(
            f"the policy needs {' and '.join(missing)}, which these traces do not have: choose "
            "another pruning=NAME, another judge=NAME, or other traces."
        )


@contextmanager
def _source(
    config: DictConfig, questions: Sequence[Question], needs: frozenset[Need]
) -> Iterator[_Source]:
    source = _Source(config, questions, needs)
    try:
        yield source
    finally:
        source.close()


def _check_can_probe(source: _Source, needs: frozenset[Need], policy: str) -> None:
    engine = source.engine
    if Need.PROBES in needs and engine is not None and not engine.backend.can_continue:
        raise InputError(
            f"{policy} forces answers out of prefixes, and the server of {engine.model!r} cannot "
            "go on from a prefix: take another pruning=NAME, or a server with /v1/completions."
        )


class _Record:
    """The run folder: results by question, traces, and what came of questions that were cut.

    ``traces`` has the questions that are decided, so that it can be replayed as it is;
    ``undecided`` what was generated for those that failed or were interrupted.
    """

    def __init__(self, folder: Path, engine: LiveEngine | None) -> None:
        self.said = "nothing was generated"
        self._folder = folder
        self._engine = engine
        path = folder / RESULTS
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        self._rows: dict[tuple[str, str], Row] = {_key(row): row for row in rows}

    def is_decided(self, question: Question) -> bool:
        """Whether an earlier start has decided it."""
        row = self._rows.get((question.dataset, question.question_id))
        return row is not None and row["status"] == "ok"

    def rows(self, questions: Sequence[Question]) -> list[Row]:
        """What is on record, in the order of the questions."""
        keys = [(q.dataset, q.question_id) for q in questions]
        return [self._rows[key] for key in keys if key in self._rows]

    def write(self, done: Pruned, questions: Sequence[Question]) -> None:
        """Store the traces, then the row: what is in the results is in the store."""
        if done.traces and self._engine is not None:
            name = TRACES if done.row["status"] == "ok" else UNDECIDED
            self._append(self._folder / name, done.traces)
            self.said = (
                f"{len(done.traces)} traces of {done.row['question_id']} are in "
                f"{self._folder / name}"
            )
        self._rows[_key(done.row)] = done.row
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows(questions)]
        write_atomic(self._folder / RESULTS, "".join(lines))

    def _append(self, path: Path, traces: Sequence[Trace]) -> None:
        assert self._engine is not None
        if (path / MANIFEST).exists():
            store = TraceStore.open(path)
        else:
            store = TraceStore.create(
                path,
                token_counter=self._engine.token_counter,
                answers=self._engine.prompt.answer_style,
                sampling=self._engine.facts(),
                provenance={"collected_by": "deepprune prune"},
            )
        key = (traces[0].question.dataset, traces[0].question.question_id, traces[0].model)
        there = {ref.key: ref.n_traces for ref in store.refs()} if store.manifest.parts else {}
        first = there.get(key, 0)  # of an earlier start that did not come to its end
        store.append(replace(trace, sample_id=first + trace.sample_id) for trace in traces)


def _key(row: Row) -> tuple[str, str]:
    return row["dataset"], row["question_id"]


def _prune_all(
    pruner: LivePruner,
    questions: Sequence[Question],
    record: _Record,
    view: str,
    output: TextIO,
    interrupts: _Interrupts,
) -> None:
    """One question after the other; what is decided already is left out."""
    todo = [question for question in questions if not record.is_decided(question)]
    if len(todo) < len(questions):
        print(f"{len(questions) - len(todo)} of {len(questions)} questions are decided already")
    with ExitStack() as stack:
        events = (record._folder / EVENTS).open("a", encoding="utf-8")
        watchers: list[LiveWatcher] = [EventLines(stack.enter_context(events))]
        if view == "json":
            watchers.append(EventLines(output))
        elif view == "live":
            about = (pruner.title, len(todo))
            if Console().is_terminal:
                watchers.append(stack.enter_context(LiveView(*about)))
            else:
                watchers.append(stack.enter_context(ProgressLines(*about)))
        for question in todo:
            done = pruner.prune(question, watchers)
            with interrupts.held():
                record.write(done, questions)
            for watcher in watchers:
                watcher.on_question_end(done.live, done.row)
            if done.error is not None and (
                isinstance(done.error, EngineError) or not isinstance(done.error, Exception)
            ):
                raise done.error


def _say_beforehand(
    judge: Judge | None, size: object | None, questions: Sequence[Question], model: str
) -> None:
    """What limits the figures to come."""
    if size is None:
        print(
            f"no net saving is claimed: the size of {model!r} is not known; give it with "
            'generator="{params: 7.5e9, layers: 32, hidden: 4096}"'
        )
    seen = judge.provenance.seen_questions if judge is not None else frozenset()
    if n := sum(question_hash(question.text) in seen for question in questions):
        print(f"the judge was trained on {n} of the {len(questions)} questions")


def _conclude(
    run: Run, rows: Sequence[Row], questions: Sequence[Question], live: build.Live
) -> None:
    """The summary: metrics, table, figure, W&B; a failed question fails the run."""
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        run.status = "failed"
        reason = plain(failed[0]["reason"])
        print(f"{len(failed)} of {len(questions)} questions failed: {reason}", file=sys.stderr)
    fallbacks = [row for row in rows if row["fallback"]]
    if fallbacks:
        print(
            f"{len(fallbacks)} of {len(questions)} questions were decided unpruned: "
            f"{plain(fallbacks[0]['fallback'])}",
            file=sys.stderr,
        )
    if not rows:
        return
    run.metrics |= live_estimates(rows, live.seed)
    run.point = live.policy.name
    if len(questions) > 1:
        show(live_table(rows, f"{live.policy.name}, N = {live.n_traces}", live.seed))
    figure = drawn(tokens_figure, rows, run.folder / FIGURE)
    if figure is not None:
        print(f"figure: {figure}")
    if run.wandb is not None:
        _log(run.wandb, rows, run.metrics, figure)


def _log(wandb_run: Any, rows: Sequence[Row], metrics: Mapping[str, Any], figure: Any) -> None:
    """A table ``prune/questions``, the figure ``prune/tokens``, and the summary's values."""
    import wandb

    columns: list[str | int] = [*rows[0]]
    plain_rows = [
        [json.dumps(v) if isinstance(v, list | dict) else v for v in row.values()] for row in rows
    ]
    wandb_run.log({"prune/questions": wandb.Table(columns=columns, data=plain_rows)})
    if figure is not None:
        wandb_run.log({"prune/tokens": wandb.Image(str(figure))})
    for name, estimate in metrics.items():
        wandb_run.summary[f"prune/{name}"] = estimate.value


def _answer_last(
    rows: Sequence[Row], questions: Sequence[Question], view: str, output: TextIO
) -> None:
    """The answer of a single question; with ``json`` its event has been the last line."""
    if len(questions) == 1 and rows and rows[0]["status"] == "ok" and view != "json":
        print("no answer" if rows[0]["answer"] is None else plain(rows[0]["answer"]), file=output)


def _stdout(view: str) -> TextIO:
    """Where lines that are no part of the view go."""
    return {"live": sys.stdout, "json": sys.stderr, "none": StringIO()}[view]


class _Interrupts:
    """Ctrl-C and SIGTERM as one KeyboardInterrupt, which waits while something is stored.

    Further ones are not heard, so that nothing disturbs the clean end.
    """

    def __init__(self) -> None:
        self._has_come = self._is_held = self._is_due = False

    def __enter__(self) -> _Interrupts:
        self._before = {each: signal.signal(each, self._come) for each in _STOPS}
        return self

    def __exit__(self, *error: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._has_come:
            return
        self._has_come = True
        if not self._is_held:
            raise KeyboardInterrupt
        self._is_due = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the interrupt wait until the body is done."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._is_due:
            self._is_due = False
            raise KeyboardInterrupt


_STOPS = (signal.SIGINT, signal.SIGTERM)
