"""Collecting: what is recorded, resumed, failed and handed on. The engine plays recorded traces."""

import errno
import json
import os
import re
import resource
import signal
import threading
from dataclasses import replace

import pytest
from builders import group

from deepprune.commands.interrupts import Interrupts
from deepprune.core.errors import InputError
from deepprune.generation.backend import EngineError, PromptFormat, RequestError, Sampling
from deepprune.generation.collector import (
    FAILED,
    JOURNAL,
    STORE,
    Collector,
    RecordingError,
    recording_error,
)
from deepprune.generation.live import LiveEngine
from deepprune.generation.scripted import ScriptedBackend
from deepprune.traces import TraceStore
from deepprune.traces.journal import TraceJournal

N = 4
ANSWERS = [r"\boxed{1}", r"\boxed{1.0}", r"\boxed{2}", "none"]
GROUPS = [group(ANSWERS, 8, name=f"q{i}", gold="1") for i in range(6)]
QUESTIONS = [g.question for g in GROUPS]


class Script(ScriptedBackend):
    """Counts what it plays; fails where ``fails(request)`` raises."""

    def __init__(self, groups=GROUPS, fails=lambda request: None, seconds_per_token=0.0):
        super().__init__(groups, seconds_per_token)
        self.fails = fails
        self.asked = []
        self.peak = 0
        self.is_closed = False

    async def stream(self, request):
        if not request.suffix:
            self.asked.append((request.question.question_id, request.sample_id))
        self.fails(request)
        async for chunk in super().stream(request):
            self.peak = max(self.peak, self.n_running)
            yield chunk

    async def close(self):
        self.is_closed = True


def collector(folder, *backends, concurrency=3, **others):
    engines = {
        f"server {i}": LiveEngine(backend, PromptFormat(), Sampling(max_tokens=100), **live)
        for i, backend in enumerate(backends)
        for live in [others.pop("live", {})]
    }
    defaults = {"n": N, "seed": 0, "provenance": {"from": "here"}, "say": lambda line: None}
    folder.mkdir(exist_ok=True)
    return Collector(engines, folder, concurrency=concurrency, **{**defaults, **others})


def stored(folder):
    """What a store holds, apart from how it is spread over parts."""
    store = TraceStore.open(folder / STORE)
    assert store.check() == []
    return store.load()


def failing(question_id, error):
    def fails(request):
        if request.question.question_id == question_id:
            raise error

    return fails


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted collection."""
    folder = tmp_path_factory.mktemp("whole")
    collector(folder, Script()).run(QUESTIONS)
    return stored(folder)


def test_all_traces_are_classed_and_stored(tmp_path):
    backend = Script()
    seen = []
    done = collector(tmp_path, backend, on_progress=seen.append).run(QUESTIONS)
    assert (done.failed, done.progress.n_traces, done.progress.n_wanted) == ([], 24, 24)
    assert done.progress.n_tokens == 6 * 4 * 8
    groups = stored(tmp_path)
    assert [t.text for g in groups for t in g.traces] == [t.text for g in GROUPS for t in g.traces]
    assert [t.answer_class for t in groups[0].traces] == [0, 0, 1, -1]
    assert [t.is_correct for t in groups[0].traces] == [True, True, False, False]
    manifest = done.store.manifest
    assert (manifest.token_counter, manifest.answers) == ("generator", "boxed")
    assert manifest.sampling["temperature"] == 0.6
    assert manifest.provenance == {"from": "here"}
    assert backend.peak <= 3  # seats
    assert backend.is_closed
    assert (tmp_path / JOURNAL).read_bytes() == (tmp_path / FAILED).read_bytes() == b""
    assert seen[-1].n_traces == 24


def test_a_model_that_has_changed_is_found_by_its_hash(tmp_path):
    first, changed = ({"engine": {"model": "m", "model_sha256": c * 64}} for c in "ab")
    collector(tmp_path, Script(), provenance=first).run(QUESTIONS[:1])
    with pytest.raises(InputError, match=r"engine\.model has changed since .* was begun"):
        collector(tmp_path, Script(), provenance=changed).run(QUESTIONS)
    collector(tmp_path, Script(), provenance={}).run(QUESTIONS)  # as 0.1 recorded it


def test_parts_hold_many_questions(tmp_path):
    collector(tmp_path, Script(), part_traces=9).run(QUESTIONS)
    rows = [part.rows for part in TraceStore.open(tmp_path / STORE).manifest.parts]
    assert sum(rows) == 24
    assert len(rows) < 6
    assert all(n % N == 0 for n in rows)


def test_confidences_and_forced_answers_are_stored(tmp_path):
    confident = [
        replace(g, traces=tuple(replace(t, token_confidence=[2.5] * 8) for t in g.traces))
        for g in GROUPS
    ]
    collector(tmp_path, Script(confident), live={"force_every": 3}).run(QUESTIONS[:1])
    for trace in stored(tmp_path)[0].traces:
        assert list(trace.token_confidence) == [2.5] * 8
        assert [one.n_tokens for one in trace.forced_answers] == [3, 6]
        assert all(one.tokens for one in trace.forced_answers)


def test_a_failed_question_is_recorded_and_tried_again(tmp_path, whole):
    backend = Script(fails=failing("q2", RequestError("the prompt is too long")))
    done = collector(tmp_path, backend).run(QUESTIONS)
    assert [(f.question_id, f.reason) for f in done.failed] == [("q2", done.failed[0].reason)]
    assert "the prompt is too long" in done.failed[0].reason
    (line,) = (tmp_path / FAILED).read_text().splitlines()
    assert json.loads(line)["question_id"] == "q2"
    assert len(stored(tmp_path)) == 5
    again = Script()
    assert collector(tmp_path, again).run(QUESTIONS).failed == []
    assert {name for name, _ in again.asked} == {"q2"}
    assert stored(tmp_path) == whole


def test_what_is_recorded_is_not_generated_again(tmp_path, whole):
    """The engine dies after ten traces; a crash between store and journal repeats some."""
    count = iter(range(100))

    def fails(request):
        if next(count) >= 10:
            raise EngineError("out of memory")

    first = Script(fails=fails)
    with pytest.raises(EngineError, match=r"^out of memory$"):
        collector(tmp_path, first, part_traces=4).run(QUESTIONS)
    with TraceJournal(tmp_path / JOURNAL) as journal:
        there = {(t.question.question_id, t.sample_id) for t in journal.traces}
        journal.append([t for g in stored(tmp_path) for t in g.traces])
    there |= {(t.question.question_id, t.sample_id) for g in stored(tmp_path) for t in g.traces}
    assert 8 <= len(there) <= 10
    second = Script()
    done = collector(tmp_path, second).run(QUESTIONS)
    assert sorted({*there, *second.asked}) == sorted([*there, *second.asked])
    assert len(there) + len(second.asked) == 24
    assert done.progress.n_traces == 24
    assert stored(tmp_path) == whole


def test_a_lost_replica_hands_its_traces_to_the_others(tmp_path, whole):
    count = iter(range(100))

    def fails(request):
        if next(count) >= 5:
            raise EngineError("connection refused")

    dying, steady, said = Script(fails=fails), Script(seconds_per_token=0.002), []
    done = collector(tmp_path, dying, steady, say=said.append).run(QUESTIONS)
    assert done.failed == []
    assert said == ["server 0 is lost (connection refused); 1 replicas continue"]
    assert len(dying.asked) >= 6
    assert stored(tmp_path) == whole


def test_without_a_replica_left_the_run_stops_and_goes_on_later(tmp_path, whole):
    lost = [Script(fails=failing("q3", EngineError("gone"))) for _ in range(2)]
    with pytest.raises(EngineError, match=r"server \d: gone"):
        collector(tmp_path, *lost).run(QUESTIONS)
    assert all(backend.is_closed and not backend.n_running for backend in lost)
    collector(tmp_path, Script()).run(QUESTIONS)
    assert stored(tmp_path) == whole


def test_other_models_are_refused(tmp_path):
    other = [
        replace(g, model="other", traces=tuple(replace(t, model="other") for t in g.traces))
        for g in GROUPS
    ]
    with pytest.raises(InputError, match="must serve one model, but they serve: server 0 'tiny'"):
        collector(tmp_path, Script(), Script(other)).run(QUESTIONS)
    collector(tmp_path, Script()).run(QUESTIONS[:1])
    with pytest.raises(InputError, match="has traces of 'tiny', but the engine serves 'other'"):
        collector(tmp_path, Script(other)).run(QUESTIONS)


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
@pytest.mark.parametrize(("part_traces", "fails"), [(1024, JOURNAL), (4, STORE)])
def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, whole, part_traces, fails):
    """No file may exceed 5000 bytes: ten traces in the journal, or a part with four."""
    # slow where the part is to fail before the journal does
    backend, limit = Script(seconds_per_token=0.001 if fails == JOURNAL else 0.02), 5000
    before = set(threading.enumerate())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(RecordingError, match=r"cannot be written to \(.*make room there"):
            collector(tmp_path, backend, part_traces=part_traces).run(QUESTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert backend.is_closed
    assert backend.n_running == 0
    with TraceJournal(tmp_path / JOURNAL) as journal:
        there = len(journal.traces)
    assert (there >= 10) == (fails == JOURNAL)
    assert 4 <= there < 24
    again = Script()
    collector(tmp_path, again).run(QUESTIONS)
    assert len(again.asked) == 24 - there
    assert stored(tmp_path) == whole
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["append", "drop"])
def test_a_signal_waits_while_the_journal_is_written(tmp_path, monkeypatch, whole, step, number):
    """It comes when futures are taken and not yet written; nothing of them is generated again."""
    write, written = getattr(TraceJournal, step), []

    def interrupted(journal, traces):
        signal.raise_signal(number)
        write(journal, traces)
        written.extend(traces)

    monkeypatch.setattr(TraceJournal, step, interrupted)
    first = Script()
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        collector(tmp_path, first, held=interrupts.held, part_traces=8).run(QUESTIONS)
    assert written
    assert first.is_closed
    assert first.n_running == 0
    monkeypatch.undo()
    with TraceJournal(tmp_path / JOURNAL) as journal:
        there = {(t.question.question_id, t.sample_id) for t in journal.traces}
    if step == "drop":
        there |= {(t.question.question_id, t.sample_id) for g in stored(tmp_path) for t in g.traces}
    assert {(t.question.question_id, t.sample_id) for t in written} <= there
    second = Script()
    collector(tmp_path, second).run(QUESTIONS)
    assert len(second.asked) == 24 - len(there)
    assert stored(tmp_path) == whole


def test_a_finished_collection_starts_no_engine(tmp_path, whole):
    """Nor where a crash came between the store and the journal."""
    collector(tmp_path, Script()).run(QUESTIONS)
    with TraceJournal(tmp_path / JOURNAL) as journal:
        journal.append(stored(tmp_path)[0].traces)
    again, said = Script(), []
    again.open = None  # not to be called
    done = collector(tmp_path, again, say=said.append).run(QUESTIONS)
    assert said == ["all 24 traces are recorded already; no engine is started"]
    assert (done.progress.n_traces, done.progress.n_wanted, done.failed) == (24, 24, [])
    assert stored(tmp_path) == whole
    assert (tmp_path / JOURNAL).read_bytes() == b""


def test_failures_are_added_to_their_file(tmp_path, monkeypatch):
    """Line by line: what stands there is not written again."""
    writes = []
    monkeypatch.setattr(
        "deepprune.generation.collector.write_atomic", lambda path, data: writes.append(path.name)
    )

    def fails(request):
        raise RequestError("too long")

    (tmp_path / FAILED).write_text("")
    done = collector(tmp_path, Script(fails=fails)).run(QUESTIONS)
    lines = [json.loads(line) for line in (tmp_path / FAILED).read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [f.question_id for f in done.failed]
    assert len(lines) == 6
    assert writes == [FAILED]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device.*make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EROFS, "Read-only file system.*make it writable"),
        (errno.EACCES, "make it writable"),
        (errno.ECONNREFUSED, None),
        (None, None),
    ],
)
def test_only_a_full_or_forbidden_disk_is_called_so(number, said):
    error = OSError(number, os.strerror(number)) if number else OSError("no tokenizer in x")
    told = recording_error("r", error)
    assert told is None if said is None else re.search(said, str(told))
