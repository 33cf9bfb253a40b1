"""Live sessions on traces played as if a model generated them: what a policy sees and decides."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from builders import SessionEvidence, group, with_forced_answers

from deepprune.core.errors import InputError
from deepprune.core.protocols import ANY_FINISHED, Status, Step
from deepprune.core.seeding import derive
from deepprune.core.types import (
    NO_ANSWER,
    Decision,
    FinishReason,
    ForcedAnswer,
    QuestionTraces,
    StopReason,
    Vote,
)
from deepprune.data.prefixes import FirstTokens, ReasoningWords
from deepprune.generation.backend import EngineError, PromptFormat, RequestError, Sampling
from deepprune.generation.live import LiveEngine
from deepprune.generation.scripted import ScriptedBackend
from deepprune.pruning.controller import JudgeError, run_question
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.policies.early_exit import EarlyExit
from deepprune.pruning.policies.race import Race
from deepprune.pruning.policies.short_m import ShortM
from deepprune.pruning.replay import ReplayEngine

ANSWERS = ["a", "b", "a", None, "a", "b", "c", "a"]
LENGTHS = [30, 45, 12, 60, 33, 8, 50, 21]
SAMPLING = Sampling(max_tokens=1000)
MODES = ("stream", "resubmit")


def boxed(answers=ANSWERS, lengths=LENGTHS):
    """Traces whose last word boxes their answer, as a live session extracts it."""
    plain = group(answers, lengths)
    traces = []
    for trace, answer in zip(plain.traces, answers, strict=True):
        head = trace.text.rsplit(" ", 1)[0]
        text = f"{head} \\boxed{{{answer}}}" if answer else f"{head} wait"
        traces.append(replace(trace, text=text, token_end=[*trace.token_end[:-1], len(text)]))
    return replace(plain, traces=tuple(traces))


def engine(script, backend=ScriptedBackend, **options):
    made = LiveEngine(
        backend([script]), PromptFormat(), options.pop("sampling", SAMPLING), **options
    )
    return made


def run(live, script, policy):
    """The outcome, and the traces for the record."""
    n = len(script.traces)
    session = live.open(script.question, script.model, n, 0)
    outcome = run_question(policy, session, n, Reader(session), np.random.default_rng(0))
    return outcome, session.traces()


class Reader(SessionEvidence):
    """A judge whose score depends on every character of both prefixes."""

    def score(self, pairs):
        prefixes = [[self.session.prefix(i) for i in pair] for pair in pairs.tolist()]
        seen = [[f"{p.text}|{p.n_tokens}|{p.is_finished}" for p in pair] for pair in prefixes]
        return np.array([derive(0, *pair) / 2**128 for pair in seen])


POLICIES = [
    Consensus(),
    Consensus(k=3),
    AdaptiveConsistency(stop_confidence=0.8, wave=2),
    DeepPrune(FirstTokens(10), max_finishers=2),
    DeepPrune(FirstTokens(10), finish="representatives", vote="size", wave=4, stop_confidence=0.9),
    DeepPrune(FirstTokens(5), stop_confidence=0.9, check_every=7),
    Race(width=3, budget=200),
    ShortM(k=6, m=3),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
def test_a_recording_of_a_live_run_replays_to_the_same_decisions_and_vote(policy, mode):
    script = boxed()
    live = engine(script, mode=mode)
    outcome, traces = run(live, script, policy)
    live.close()
    recording = QuestionTraces(script.question, script.model, traces)
    replay = ReplayEngine(recording, shuffle=False)
    session = replay.open(len(traces), 0)
    again = run_question(
        policy, session, len(script.traces), Reader(session), np.random.default_rng(0)
    )
    assert again.decisions == outcome.decisions
    assert (again.vote.voters, again.vote.weights) == (outcome.vote.voters, outcome.vote.weights)
    assert again.vote.answer_class == outcome.vote.answer_class
    assert again.usage.tokens_sequential == outcome.usage.tokens_sequential
    if mode == "resubmit" and not isinstance(policy, Race | ShortM):  # no token is lost
        assert again.usage.tokens == outcome.usage.tokens


class Uneven(ScriptedBackend):
    """Trace i yields its loop 3 i times between two tokens; trace 2 fails at once."""

    async def stream(self, request):
        if request.sample_id == 2:
            raise RequestError("no")
        async for chunk in super().stream(request):
            for _ in range(3 * request.sample_id):
                await asyncio.sleep(0)
            yield chunk


@pytest.mark.parametrize("mode", MODES)
def test_any_finished_is_on_the_clock_of_tokens_however_fast_each_trace_is(mode):
    """Lengths 30, 9, (fails), 9, and 5 that starts later: ends at 0, 9 (two), 14, 30 tokens."""
    script = boxed(["a", "b", "a", "b", "a"], [30, 9, 20, 9, 5])
    live = engine(script, Uneven, mode=mode)
    session = live.open(script.question, script.model, 5, 0)

    def ends(session):
        session.start(4)
        for start in (0, 0, 1, 0, 0):
            session.start(start)
            seen = session.advance(ANY_FINISHED)
            yield seen.n_tokens.tolist(), seen.is_finished.nonzero()[0].tolist()
        yield session.usage.tokens_sequential, session.usage.peak_traces

    expected = [
        ([0, 0, 0, 0], [2]),
        ([9, 9, 0, 9], [1, 2, 3]),
        ([14, 9, 0, 9, 5], [1, 2, 3, 4]),
        ([30, 9, 0, 9, 5], [0, 1, 2, 3, 4]),
        ([30, 9, 0, 9, 5], [0, 1, 2, 3, 4]),  # nothing runs
    ]
    live_ends = list(ends(session))
    traces = session.traces()
    session.close()
    live.close()
    assert live_ends[:-1] == expected
    recording = QuestionTraces(script.question, script.model, traces)
    replayed = list(ends(ReplayEngine(recording, shuffle=False).open(5, 0)))
    assert replayed[:-1] == expected
    assert replayed[-1][0] == live_ends[-1][0] == 30


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_a_race_that_asks_the_traces_in_flight_replays_alike(seed, mode):
    """Forced answers count in the doubt, the vote and the tokens, whatever runs faster."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 14))
    answers = [None if a == "-" else a for a in rng.choice(list("aabbc-"), n).tolist()]
    script = boxed(answers, rng.integers(2, 40, n).tolist())
    said = [["ab"[i] for i in rng.integers(0, 2, 20)] for _ in range(n)]
    forced = [
        tuple(ForcedAnswer(3 * (i + 1), answer) for i, answer in enumerate(each)) for each in said
    ]
    traces = zip(script.traces, forced, strict=True)
    script = replace(script, traces=tuple(replace(t, forced_answers=f) for t, f in traces))
    live = engine(script, Uneven if seed % 2 else ScriptedBackend, mode=mode, force_every=4)
    policy = Race(width=int(rng.integers(2, 6)), budget=150, flight=0.25, flight_after=5)
    outcome, recorded = run(live, script, policy)
    live.close()
    replay = ReplayEngine(QuestionTraces(script.question, script.model, recorded), shuffle=False)
    session = replay.open(len(recorded), 0)
    again = run_question(policy, session, n, Reader(session), np.random.default_rng(0))
    assert again.decisions == outcome.decisions
    assert again.vote == outcome.vote
    assert again.final.tokens_forced == outcome.final.tokens_forced > 0
    assert any(weight % 1 for weight in outcome.vote.weights.values()) or not outcome.decisions


def test_the_record_holds_what_was_generated():
    script = boxed()
    live = engine(script, mode="resubmit")
    outcome, traces = run(live, script, DeepPrune(FirstTokens(10), max_finishers=2))
    live.close()
    stopped = {d.trace for d in outcome.decisions}
    assert stopped
    for i, (trace, source) in enumerate(zip(traces, script.traces, strict=True)):
        if i in stopped:
            assert (trace.n_tokens, trace.finish_reason) == (10, FinishReason.PRUNED)
            assert (trace.answer, trace.answer_class) == (None, NO_ANSWER)
            assert source.text.startswith(trace.text)
        else:
            assert (trace.text, list(trace.token_end)) == (source.text, list(source.token_end))
            assert trace.is_correct == (source.answer == "a")
    assert outcome.usage.tokens == sum(t.n_tokens for t in traces)
    assert outcome.final.n_tokens.sum() == outcome.usage.tokens


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_shows_no_more_than_a_replay_would(mode):
    script = boxed()
    live = engine(script, mode=mode)
    session = live.open(script.question, script.model, 8, 0)
    session.start(8)
    seen = session.advance(12)
    time.sleep(0.05)  # the traces run on, and end
    assert seen.n_tokens.tolist() == [12, 12, 12, 12, 12, 8, 12, 12]
    assert np.flatnonzero(seen.is_finished).tolist() == [2, 5]
    assert session.prefix(0).text == script.traces[0].text[: script.traces[0].token_end[11]]
    assert not session.prefix(0).is_finished
    assert session.prefix(2).is_finished
    seen = session.advance(None)
    assert seen.is_finished.all()
    assert seen.answer_class[0] == seen.answer_class[2] != seen.answer_class[1]
    session.close()
    live.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_rule_that_reads_the_text_pauses_where_it_does_in_a_replay(mode):
    script = boxed()
    words = " ".join(["x so y"] * 20).split()
    texts = [" ".join([*words, f"\\boxed{{{i}}}"]) for i in range(3)]
    traces = tuple(
        replace(
            t,
            text=text,
            n_tokens=61,
            token_end=[len(" ".join(text.split()[: k + 1])) for k in range(61)],
        )
        for t, text in zip(script.traces, texts, strict=False)
    )
    script = replace(script, traces=traces)
    live = engine(script, mode=mode)
    session = live.open(script.question, script.model, 3, 0)
    session.start(3)
    rule = ReasoningWords(4)
    seen = session.advance(rule)
    cut = rule.cut(texts[0], traces[0].token_end)
    assert seen.n_tokens.tolist() == [cut] * 3
    assert session.advance(rule).n_tokens.tolist() == [cut] * 3
    if mode == "resubmit":  # it paused a few tokens later, when the text was looked at
        assert max(state.n_tokens for state in session.states()) < 40
    assert session.advance(None).n_tokens.tolist() == [61] * 3
    assert session.traces()[1].text == texts[1]
    session.close()
    live.close()


@pytest.mark.parametrize("mode", MODES)
def test_forced_answers_are_what_the_recording_has(mode):
    script = with_forced_answers(boxed(), [[i % 3] * 12 for i in range(8)], every=5)
    live = engine(script, mode=mode, force_every=5)
    policy = EarlyExit(force_every=5, agreeing=2)
    outcome, traces = run(live, script, policy)
    live.close()
    assert {d.reason for d in outcome.decisions} == {StopReason.SETTLED}
    for trace, source in zip(traces, script.traces, strict=True):
        places = [p.n_tokens for p in trace.forced_answers]
        assert places == [p.n_tokens for p in source.forced_answers][: len(places)]
        assert [p.answer for p in trace.forced_answers] == [
            p.answer for p in source.forced_answers[: len(places)]
        ]
    forced = sum(len(t.forced_answers) for t in traces)
    assert outcome.usage.tokens_forced == forced


def test_a_stopped_trace_is_played_to_where_it_was_stopped_and_no_further():
    script = boxed(["1", "2"], 6)
    stopped = tuple(replace(t, finish_reason=FinishReason.PRUNED) for t in script.traces)
    live = engine(replace(script, traces=stopped), mode="resubmit")
    session = live.open(script.question, script.model, 2, 0)
    session.start(2)
    shown = session.advance(6)
    assert shown.n_tokens.tolist() == [6, 6]
    assert not shown.is_finished.any()
    with pytest.raises(RequestError, match="ends after 6 tokens: pruned"):
        session.advance(None)
    session.close()
    live.close()


def test_answers_that_arrive_one_by_one_are_classed_by_equivalence():
    script = boxed(["0.5", "1/2", "2", r"\frac{1}{2}"], 6)
    live = engine(script)
    session = live.open(script.question, script.model, 4, 0)
    session.start(4)
    assert session.advance(None).answer_class.tolist() == [0, 0, 1, 0]
    session.close()
    live.close()


class Failing(ScriptedBackend):
    """Loses a trace, the engine, or stalls, after five tokens."""

    fault: Exception | None = None
    victims = (1,)

    async def stream(self, request):
        n = 0
        async for chunk in super().stream(request):
            yield chunk
            n += 1
            if n == 5 and request.sample_id in self.victims:
                if self.fault is None:
                    await asyncio.sleep(3600)
                raise self.fault


def failing(script, fault, victims=(1,), **options):
    live = engine(script, Failing, **options)
    live.backend.fault, live.backend.victims = fault, victims
    return live


def test_a_lost_trace_has_no_answer_and_the_others_go_on():
    script = boxed()
    live = failing(script, RequestError("the server gave it up"))
    outcome, traces = run(live, script, Consensus())
    live.close()
    assert outcome.vote.voters == tuple(range(8))
    assert sum(outcome.vote.weights.values()) == 6  # one lost, one without an answer
    assert (traces[1].finish_reason, traces[1].n_tokens) == (FinishReason.FAILED, 5)
    recording = QuestionTraces(script.question, script.model, traces)
    session = ReplayEngine(recording, shuffle=False).open(8, 0)
    again = run_question(Consensus(), session, 8, Reader(session), np.random.default_rng(0))
    assert again.vote.weights == outcome.vote.weights


def test_when_all_traces_fail_so_does_the_question():
    script = boxed()
    live = failing(script, RequestError("no"), victims=range(8))
    with pytest.raises(RequestError, match="all 8 traces failed: no"):
        run(live, script, Consensus())
    assert live.backend.n_running == 0
    live.close()


@pytest.mark.parametrize(("fault", "message"), [(EngineError("it died"), "it died"), (None, "0.3")])
def test_a_lost_or_silent_engine_is_an_error_and_what_came_is_kept(fault, message):
    script = boxed()
    live = failing(script, fault, stall_s=0.3)
    session = live.open(script.question, script.model, 8, 0)
    with pytest.raises(EngineError, match=message):
        run_question(Consensus(), session, 8, SessionEvidence(session), np.random.default_rng(0))
    assert live.backend.n_running == 0
    traces = session.traces()
    assert (traces[1].finish_reason, traces[1].n_tokens) == (FinishReason.CUT, 5)
    live.close()


class BrokenJudge:
    def __init__(self, session):
        self.session = session

    def score(self, pairs):
        raise JudgeError("the judge gave nan")

    def confidence(self, trace):
        return self.session.confidence(trace)


@pytest.mark.parametrize("mode", MODES)
def test_without_its_judge_a_question_goes_on_unpruned(mode):
    script = boxed()
    live = engine(script, mode=mode)
    session = live.open(script.question, script.model, 8, 0)
    policy = DeepPrune(FirstTokens(10), max_finishers=1)
    outcome = run_question(policy, session, 8, BrokenJudge(session), np.random.default_rng(0))
    assert outcome.fallback == "the judge gave nan"
    assert outcome.decisions == ()
    assert outcome.final.is_finished.all()
    assert session.traces()[0].answer == "a"
    assert outcome.vote.answer_class == outcome.final.answer_class[0]
    live.close()


class StopLate:
    """Stops all but the first after eight tokens."""

    needs, name = frozenset(), "stop_late"

    def run(self, n_traces, evidence, rng):
        yield Step(start=n_traces, until=8)
        seen = yield Step(stop=[Decision(i, StopReason.NOT_CHOSEN) for i in range(1, n_traces)])
        return Vote(int(seen.answer_class[0]), {}, (0,))


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_trace_generates_no_more(mode):
    script = boxed(["a"] * 4, 200)
    live = LiveEngine(ScriptedBackend([script], 0.005), PromptFormat(), SAMPLING, mode=mode)
    outcome, traces = run(live, script, StopLate())
    assert live.backend.n_running == 0
    live.close()
    assert traces[0].n_tokens == 200
    assert max(t.n_tokens for t in traces[1:]) < 150
    assert outcome.usage.tokens == sum(t.n_tokens for t in traces)


def test_views_see_the_traces_grow():
    script = boxed(["a"] * 3, 40)
    live = engine(script, mode="resubmit")  # whose traces wait at a checkpoint
    session = live.open(script.question, script.model, 3, 0)
    session.start(3)
    session.advance(5)
    states = session.states()
    assert [(s.n_tokens, s.status) for s in states] == [(5, Status.RUNNING)] * 3
    assert all(session.prefix(i).text.endswith(s.tail) for i, s in enumerate(states))
    session.advance(None)
    assert all(s.status is Status.FINISHED and "boxed" in s.tail for s in session.states())
    session.close()
    live.close()


def test_a_whole_trace_is_the_one_that_a_session_has():
    script = boxed()
    live = engine(script, mode="resubmit")
    trace = live.generate(script.question, 4, 0).result(timeout=10)
    _, traces = run(live, script, Consensus())
    assert (trace.text, trace.seed, trace.sample_id) == (traces[4].text, traces[4].seed, 4)
    assert len({t.seed for t in traces}) == 8
    with pytest.raises(RequestError, match="asked for trace 99"):
        live.generate(script.question, 99, 0).result(timeout=10)
    slow = LiveEngine(ScriptedBackend([script], 1.0), PromptFormat(), SAMPLING)
    future = slow.generate(script.question, 0, 0)
    while not slow.backend.n_running:
        time.sleep(0.005)
    future.cancel()
    slow.close()
    assert slow.backend.n_running == 0
    live.close()


class CannotContinue(ScriptedBackend):
    can_continue = False


def test_what_a_server_cannot_do_is_said_at_the_start():
    script = boxed()
    with pytest.raises(InputError, match=r"live.mode=resubmit needs a server that goes on"):
        engine(script, CannotContinue, mode="resubmit").start()
    engine(script, CannotContinue).start()


def test_the_token_limit_ends_a_trace():
    script = boxed(["a"] * 2, 40)
    for mode in MODES:
        live = engine(script, mode=mode, sampling=Sampling(max_tokens=25))
        _, traces = run(live, script, DeepPrune(FirstTokens(10), max_finishers=2))
        assert {(t.n_tokens, t.finish_reason) for t in traces} == {(25, FinishReason.LENGTH)}
        live.close()


def test_a_trace_that_the_engine_cuts_ends_there():
    script = boxed(["a"] * 2, 40)
    cut = tuple(replace(t, finish_reason=FinishReason.LENGTH) for t in script.traces)
    for mode in MODES:
        live = engine(replace(script, traces=cut), mode=mode)
        _, traces = run(live, script, DeepPrune(FirstTokens(10), max_finishers=2))
        assert {(t.n_tokens, t.finish_reason) for t in traces} == {(40, FinishReason.LENGTH)}
        live.close()


def of_words(script, text, n):
    """The traces with another text, whose words are its tokens."""
    ends = [len(" ".join(text.split()[: k + 1])) for k in range(n)]
    traces = tuple(replace(t, text=text, n_tokens=n, token_end=ends) for t in script.traces)
    return replace(script, traces=traces)


class SlowToClose(ScriptedBackend):
    """Takes its time to end a request, as a server does."""

    async def stream(self, request):
        try:
            async for chunk in super().stream(request):
                yield chunk
        finally:
            await asyncio.sleep(0.05)


def test_a_paused_trace_goes_on_though_its_request_still_ends():
    script = of_words(boxed(), "x so y " * 20 + "\\boxed{a}", 61)
    live = engine(script, SlowToClose, mode="resubmit")
    session = live.open(script.question, script.model, 8, 0)
    session.start(8)
    session.advance(ReasoningWords(4))
    assert session.advance(None).is_finished.all()
    session.close()
    live.close()


def test_in_stream_a_rule_that_reads_the_text_is_seen_on_the_way():
    script = of_words(boxed(), "x so y " * 66 + "\\boxed{a}", 199)
    live = LiveEngine(ScriptedBackend([script], 0.002), PromptFormat(), SAMPLING)
    session = live.open(script.question, script.model, 2, 0)
    session.start(2)
    session.advance(ReasoningWords(4))
    assert max(state.n_tokens for state in session.states()) < 100
    session.close()
    live.close()


class EndsAfterwards(ScriptedBackend):
    """Its requests end at their limit; that a trace is over is only told when it is to go on."""

    async def stream(self, request):
        async for chunk in super().stream(request):
            if len(request.token_ids) or not chunk.finish_reason or request.max_tokens > 10:
                yield chunk
            else:
                yield replace(chunk, finish_reason=FinishReason.LENGTH)


def test_a_trace_that_ends_at_a_checkpoint_replays_as_it_was_seen():
    """In resubmit its end is only told by the next request; the recording counts a token for it."""
    script = boxed(["a", "b", "a"], [10, 20, 30])
    live = engine(script, EndsAfterwards, mode="resubmit")
    session = live.open(script.question, script.model, 3, 0)
    session.start(3)
    seen = session.advance(10)
    assert not seen.is_finished.any()
    session.advance(None)
    traces = session.traces()
    session.close()
    live.close()
    assert [t.n_tokens for t in traces] == [11, 20, 30]
    recording = QuestionTraces(script.question, script.model, traces)
    again = ReplayEngine(recording, shuffle=False).open(3, 0)
    again.start(3)
    assert (again.advance(10).is_finished == seen.is_finished).all()


class DefectiveForcedAnswers(ScriptedBackend):
    async def stream(self, request):
        if request.suffix:
            raise KeyError("logprobs")
        async for chunk in super().stream(request):
            yield chunk


def test_a_defect_of_a_backend_in_a_forced_answer_is_an_error_of_the_engine():
    script = boxed()
    live = engine(script, DefectiveForcedAnswers)
    with pytest.raises(EngineError, match="KeyError"):
        run(live, script, EarlyExit(force_every=5, agreeing=2))
    live.close()


def test_without_its_judge_all_traces_are_started():
    script = boxed()
    live = engine(script)
    session = live.open(script.question, script.model, 8, 0)
    policy = DeepPrune(FirstTokens(10), wave=2)
    outcome = run_question(policy, session, 8, BrokenJudge(session), np.random.default_rng(0))
    assert outcome.vote.voters == tuple(range(8))
    live.close()


class FewSeats(ScriptedBackend):
    seats = 4


def test_more_traces_than_seats_are_spoken_of(caplog):
    script = boxed()
    for mode, n_said in (("resubmit", 0), ("stream", 1)):
        live = engine(script, FewSeats, mode=mode)
        live.open(script.question, script.model, 8, 0)
        assert len(caplog.records) == n_said
        live.close()
