"""One question pruned live: a judge that fails, the estimate, the record, the replay of it."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from builders import group, recorded, with_forced_answers

from deepprune.answers.equivalence import WorkerError
from deepprune.core.protocols import Step, Usage
from deepprune.core.types import NO_ANSWER, FinishReason, QuestionTraces, StopReason, Vote
from deepprune.data.prefixes import FirstTokens
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.saving import estimated_saving
from deepprune.generation.backend import EngineError, PromptFormat, RequestError, Sampling
from deepprune.generation.live import LiveEngine
from deepprune.generation.scripted import ScriptedBackend
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.live.guard import JudgeWorker
from deepprune.live.pruner import LivePruner
from deepprune.pruning.controller import JudgeError
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.policies.early_exit import EarlyExit
from deepprune.pruning.policies.esc import ESC
from deepprune.traces import TraceStore

SIZE = GeneratorSize(params=100, layers=2, hidden=4)
REPRESENTATIVES = DeepPrune(FirstTokens(4), finish="representatives", vote="size")


class Told(Judge):
    """Says what ``tell`` does; 5 FLOPs a pair."""

    is_symmetric = True

    def __init__(self, tell):
        self.tell = tell

    @property
    def provenance(self):
        return JudgeProvenance("told", None)

    def score(self, pairs):
        return np.array([self.tell(pair) for pair in pairs], dtype=float)

    def pair_prices(self, pairs):
        return Prices(np.full(len(pairs), 3.0), np.full(len(pairs), 5.0))


def parity(pair):
    """Traces of even numbers are alike, and those of odd ones."""
    return float((pair.first.trace.sample_id - pair.second.trace.sample_id) % 2 == 0)


def scripted(traces, kind=ScriptedBackend, mode="stream", **settings):
    boxed = [
        replace(
            t,
            text=f"{t.text} \\boxed{{{t.answer}}}",
            n_tokens=t.n_tokens + 1,
            token_end=[*t.token_end, len(t.text) + len(f" \\boxed{{{t.answer}}}")],
        )
        for t in traces.traces
    ]
    played = QuestionTraces(traces.question, traces.model, tuple(boxed))
    backend = kind([played], **settings)
    return LiveEngine(backend, PromptFormat(), Sampling(max_tokens=1000), mode=mode)


def pruner(open_session, judge, policy=REPRESENTATIVES, n=6, timeout_s=120.0, size=SIZE):
    worker = JudgeWorker(timeout_s)
    return LivePruner(open_session, "tiny", policy, judge, worker, n, 0, size)


@pytest.fixture
def traces():
    """Even ones answer a, odd ones b; all of 20 tokens."""
    return group(["a", "b"] * 3, 20)


def test_the_row_says_who_was_stopped_and_what_that_saved(traces):
    """Traces 0 and 1 go on to 20 tokens, four stop at 4: 48 of 120 tokens; 11 pairs asked, say.

    The judge's 5 FLOPs a pair make the net saving the smaller one.
    """
    row = pruner(recorded(traces), Told(parity)).prune(traces.question).row
    assert (row["status"], row["answer"], row["is_correct"]) == ("ok", "a", True)
    assert row["weights"] == [
        {"answer": "a", "class": 0, "weight": 3.0},
        {"answer": "b", "class": 1, "weight": 3.0},
    ]
    stopped = {d["trace"]: (d["by"], d["reason"]) for d in row["decisions"]}
    assert stopped == {
        2: (0, "redundant"), 4: (0, "redundant"), 3: (1, "redundant"), 5: (1, "redundant"),
    }  # fmt: skip
    assert (row["n_started"], row["n_stopped"], row["n_finished"]) == (6, 4, 2)
    whole = 2 * 20 + 4 * 4
    assert (row["tokens"], row["tokens_unpruned_estimated"]) == (whole, 6 * 20)
    assert row["saving_estimated"] == pytest.approx(1 - whole / 120)
    assert row["judge_flops"] == 5 * row["judge_calls"] > 0
    gross = 1 - row["generator_flops"] / row["flops_unpruned_estimated"]
    judged = row["judge_flops"] / row["flops_unpruned_estimated"]
    assert row["net_saving_estimated"] == pytest.approx(gross - judged)


class Silent(Consensus):
    """Lets all traces finish, and gives no answer."""

    def run(self, n_traces, evidence, rng):
        yield Step(start=n_traces)
        return Vote(NO_ANSWER, {}, ())


@pytest.mark.parametrize(("answers", "status"), [(["a", None], "failed"), ([None, None], "ok")])
def test_no_answer_although_traces_finished_with_one_is_an_error(answers, status):
    traces = group(answers, 20)
    row = pruner(recorded(traces), None, Silent(), n=2).prune(traces.question).row
    assert (row["status"], row["answer"]) == (status, None)
    if status == "failed":
        assert "gave no answer although 1 traces finished with one" in row["reason"]


def test_an_unknown_generator_claims_nothing_net(traces):
    row = pruner(recorded(traces), Told(parity), size=None).prune(traces.question).row
    assert row["net_saving_estimated"] is None
    assert row["generator_flops"] is None
    assert row["saving_estimated"] > 0


def test_the_estimate_takes_the_unknown_for_the_mean_of_the_finished():
    """10 and 20 finished: a stopped 5 and an unstarted one count 15, a stopped 40 its 40.

    One that failed after 3 counts 3: a failure saves nothing.
    """
    tokens = np.array([10.0, 20, 5, 40, 3])
    finished, failed = np.array([1, 1, 0, 0, 0], bool), np.array([0, 0, 0, 0, 1], bool)
    saving = estimated_saving(tokens, finished, failed, 6, usage(tokens_forced=5))
    assert saving.tokens == 10 + 20 + 15 + 40 + 3 + 15
    assert saving.gross == pytest.approx(1 - 83 / 103)
    assert estimated_saving(tokens, np.zeros(5, bool), failed, 6, usage()) is None


def usage(tokens_forced=0):
    return Usage(0, tokens_forced, 0.0, 0, 0, 0.0)


class Failing(ScriptedBackend):
    """Odd traces fail for good after 6 tokens."""

    async def stream(self, request):
        n = 0
        async for chunk in super().stream(request):
            if n == 6 and request.sample_id % 2:
                raise RequestError("the server is out of memory")
            n += 1
            yield chunk


def test_traces_that_fail_save_nothing_and_count_the_same_in_a_replay(traces, tmp_path):
    """Three of six fail after 6 tokens, three run to their 21: 81 tokens, none of them saved."""
    engine = scripted(traces, Failing)
    try:
        live = pruner(engine.open, Told(lambda _: 0)).prune(traces.question)
    finally:
        engine.close()
    row = live.row
    assert (row["status"], row["answer"], row["weights"][0]["weight"]) == ("ok", "a", 3)
    assert (row["n_started"], row["n_finished"], row["n_failed"], row["n_stopped"]) == (6, 3, 3, 0)
    assert (row["tokens"], row["tokens_finished"], row["tokens_failed"]) == (81, 63, 18)
    assert row["tokens_pruned"] == 0
    assert (row["saving_estimated"], row["tokens_unpruned_estimated"]) == (0, 81)
    assert row["net_saving_estimated"] == pytest.approx(
        -row["judge_flops"] / row["flops_unpruned_estimated"]
    )
    states = [state.status.value for state in live.live.session.states()]
    assert states == ["finished", "failed"] * 3
    store = TraceStore.create(tmp_path / "s", token_counter="generator", answers="boxed")
    store.append(live.traces)
    again = pruner(recorded(*store.load()), Told(lambda _: 0)).prune(traces.question)
    same = ("answer", "voters", "n_finished", "n_failed", "tokens_failed", "saving_estimated")
    assert {k: row[k] for k in same} == {k: again.row[k] for k in same}
    assert [state.status.value for state in again.live.session.states()] == states


def test_the_running_vote_is_that_of_the_checkpoint_in_any_spelling(tmp_path):
    """0.5 and 1/2 are one answer, live and in the replay of it; nothing votes before it is seen."""
    traces = group(["0.5", "7", "1/2", "\\frac{1}{2}"], [6, 6, 6, 60])
    told = []

    class Votes:
        def on_question_start(self, live):
            told.append(live.vote())

        def on_checkpoint(self, live, step, seen):
            told.append(live.vote())

        def on_decision(self, live, decision):
            pass

    policy = DeepPrune(FirstTokens(20), finish="representatives", vote="size")
    engine = scripted(traces)
    try:
        unlike = Told(lambda _: 0)
        live = pruner(engine.open, unlike, policy, n=4).prune(traces.question, [Votes()])
    finally:
        engine.close()
    assert told == [[], [("0.5", 2), ("7", 1)], [("0.5", 3), ("7", 1)]]
    store = TraceStore.create(tmp_path / "s", token_counter="generator", answers="boxed")
    store.append(live.traces)
    told.clear()
    pruner(recorded(*store.load()), unlike, policy, n=4).prune(traces.question, [Votes()])
    assert told == [[], [("0.5", 2), ("7", 1)], [("0.5", 3), ("7", 1)]]


@pytest.mark.parametrize(
    ("lost", "status", "reason"),
    [
        (WorkerError("no process can be started"), "failed", "no process can be started"),
        (KeyboardInterrupt(), "interrupted", "the run was interrupted"),
    ],
)
def test_what_goes_wrong_after_the_vote_makes_no_wrong_answer_and_loses_nothing(
    lost, status, reason, traces
):
    engine = scripted(traces)

    def open_session(*question):
        session = engine.open(*question)

        def fail():
            raise lost

        session.traces = fail
        return session

    try:
        done = pruner(open_session, Told(parity)).prune(traces.question)
    finally:
        engine.close()
    assert done.error is lost
    row = done.row
    assert (row["status"], row["reason"], row["answer"]) == (status, reason, None)
    assert row["is_correct"] is None
    assert row["saving_estimated"] is None
    assert next(t.answer for t in done.traces if t.finish_reason is FinishReason.STOP) == "a"
    assert {t.answer_class for t in done.traces} == {NO_ANSWER}
    assert len(done.traces) == 6


def test_the_seconds_are_the_engine_s_at_the_vote(traces):
    """Keeping the record takes longer than all the rest here."""
    engine = scripted(traces)

    def open_session(*question):
        session = engine.open(*question)
        whole = session.traces

        def slow():
            time.sleep(0.5)
            return whole()

        session.traces = slow
        return session

    began = time.monotonic()
    try:
        row = pruner(open_session, Told(parity)).prune(traces.question).row
    finally:
        engine.close()
    assert 0 < row["seconds"] < time.monotonic() - began - 0.5


def hangs(_):
    time.sleep(3600)


def raises(_):
    raise RuntimeError("out of\nmemory")


@pytest.mark.parametrize(
    ("tell", "said"),
    [
        (raises, "the judge 'told' failed: RuntimeError: out of memory"),
        (lambda _: float("nan"), "gave nan; a score lies in [0, 1]"),
        (lambda _: 1.5, "gave 1.5; a score lies in [0, 1]"),
        (hangs, "the judge took longer than prune.judge_timeout_s=0.2 seconds"),
    ],
)
def test_a_judge_that_fails_leaves_all_traces_to_vote(tell, said, traces):
    engine = scripted(traces)
    try:
        timeout_s = 0.2 if tell is hangs else 120
        done = pruner(engine.open, Told(tell), timeout_s=timeout_s).prune(traces.question)
        assert engine.backend.n_running == 0
    finally:
        engine.close()
    assert said in done.row["fallback"]
    assert done.row["status"] == "ok"
    assert done.row["voters"] == list(range(6))
    assert (done.row["n_stopped"], done.row["saving_estimated"]) == (0, 0)
    assert done.row["judge_calls"] == 0
    assert all(t.finish_reason is FinishReason.STOP for t in done.traces)


def test_a_judge_that_hangs_fails_at_once_the_next_time_and_comes_back():
    gate = threading.Event()
    worker = JudgeWorker(timeout_s=0.05)
    with pytest.raises(JudgeError, match="took longer"):
        worker.call(gate.wait)
    with pytest.raises(JudgeError, match="still hangs in an earlier call"):
        worker.call(lambda: 1)
    gate.set()
    while not worker._last.done():
        time.sleep(0.01)
    worker.timeout_s = 120
    assert worker.call(lambda: 1) == 1


def test_a_lost_engine_is_no_failed_judge(traces):
    """It comes through the judge's thread as what it is."""

    def lose(_):
        raise EngineError("gone")

    done = pruner(recorded(traces), Told(lose)).prune(traces.question)
    assert isinstance(done.error, EngineError)
    assert (done.row["status"], done.row["reason"]) == ("failed", "gone")
    assert [t.n_tokens for t in done.traces] == [4] * 6
    assert {t.finish_reason for t in done.traces} == {FinishReason.CUT}


@pytest.mark.parametrize("policy", [REPRESENTATIVES, ESC(window=3)])
def test_a_recording_of_a_live_run_replays_to_the_same_decisions(policy, traces, tmp_path):
    engine = scripted(traces)
    try:
        live = pruner(engine.open, Told(parity), policy).prune(traces.question)
    finally:
        engine.close()
    store = TraceStore.create(tmp_path / "s", token_counter="generator", answers="boxed")
    store.append(live.traces)
    again = pruner(recorded(*store.load()), Told(parity), policy).prune(traces.question)
    same = ("answer", "answer_class", "weights", "voters", "decisions", "is_correct", "n_started")
    assert {k: live.row[k] for k in same} == {k: again.row[k] for k in same}
    assert live.row["status"] == "ok"


def test_an_answer_that_was_only_forced_is_said_and_graded(tmp_path):
    """All traces stop once their forced answers agree, so none has a final answer."""
    traces = with_forced_answers(group(["0"] * 4, 20, gold="0"), [[0] * 3] * 4, every=5)
    engine = scripted(traces, mode="resubmit")
    try:
        done = pruner(engine.open, None, EarlyExit(force_every=5, agreeing=2), 4)
        done = done.prune(traces.question)
    finally:
        engine.close()
    assert {t.answer for t in done.traces} == {None}
    assert (done.row["answer"], done.row["is_correct"]) == ("0", True)
    assert done.row["weights"][0]["answer"] == "0"
    assert all(f.is_correct for t in done.traces for f in t.forced_answers)


def test_an_interrupt_hands_back_what_was_generated(traces):
    class Impatient:
        def on_question_start(self, live):
            pass

        def on_checkpoint(self, live, step, seen):
            raise KeyboardInterrupt

    engine = scripted(traces)
    try:
        done = pruner(engine.open, Told(parity)).prune(traces.question, [Impatient()])
        assert engine.backend.n_running == 0
    finally:
        engine.close()
    assert isinstance(done.error, KeyboardInterrupt)
    assert (done.row["status"], done.row["answer"]) == ("interrupted", None)
    assert len(done.traces) == 6
    assert all(t.n_tokens >= 4 for t in done.traces)


def test_decisions_say_why(traces):
    largest = DeepPrune(FirstTokens(4), max_finishers=2)
    row = pruner(recorded(traces), Told(parity), largest).prune(traces.question).row
    reasons = {d["trace"]: d["reason"] for d in row["decisions"]}
    redundant, other = StopReason.REDUNDANT.value, StopReason.NOT_CHOSEN.value
    assert reasons == {4: redundant, 1: other, 3: other, 5: other}
    assert row["voters"] == [0, 2]
