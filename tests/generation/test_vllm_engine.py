"""The vLLM backend; most of it on the real engine, with SmolLM2 (`benchmarks/smollm2.py`)."""

import asyncio
import hashlib
import importlib.util
import multiprocessing
import os
import signal
import time
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason, Question, QuestionTraces
from deepprune.data.prefixes import FirstTokens
from deepprune.generation.backend import (
    EngineError,
    PromptFormat,
    Request,
    RequestError,
    Sampling,
)
from deepprune.generation.live import LiveEngine
from deepprune.generation.vllm import VllmBackend, _Text, token_confidences
from deepprune.pruning.controller import run_question
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import ReplayEngine

has_vllm = importlib.util.find_spec("vllm") is not None
SMOLLM2 = os.environ.get("DEEPPRUNE_SMOLLM2")

FORMAT = PromptFormat()
SAMPLING = Sampling(max_tokens=60, temperature=0.8, top_p=1.0, logprobs=5)
UNSURE = replace(SAMPLING, logprobs=0)
QUESTION = Question("toy", "sum", "What is 12 + 30?", "42")
STORY = Question("toy", "story", "Write a story about a café, with prices in €.")


def request(sampling=SAMPLING, max_tokens=None, question=QUESTION, seed=0, **rest):
    budget = sampling.max_tokens if max_tokens is None else max_tokens
    return Request(question, FORMAT, sampling, budget, seed, **rest)


# Without vLLM.


@pytest.fixture(scope="module")
def every_byte_a_token():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def deltas(ids, sizes):
    """Tokens as vLLM tells them, so many at a time."""
    for first, last in zip([0, *np.cumsum(sizes)], np.cumsum(sizes), strict=False):
        yield SimpleNamespace(token_ids=ids[first:last], finish_reason=None)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_characters_split_over_tokens_and_requests_come_whole(every_byte_a_token, size):
    text = "so é = 日本 🙂 \ufb01 done"
    ids = every_byte_a_token.encode(text).ids
    assert len(ids) == len(text.encode())
    for cut in range(len(ids) + 1):
        n_cut = len(text.encode()[:cut].decode(errors="ignore"))
        so_far = request(UNSURE, text=text[:n_cut], token_ids=ids[:cut])
        decoder = _Text(every_byte_a_token, ids[:cut], so_far)
        said, ends = text[:n_cut], []
        for delta in deltas(ids[cut:], [size] * len(ids)):
            chunk = decoder.add(delta)
            ends += [len(said) + end for end in chunk.token_end]
            said += chunk.text
        assert said == text
        wanted = [text.encode()[: i + 1].decode(errors="ignore") for i in range(cut, len(ids))]
        assert [said[:end] for end in ends] == wanted


@pytest.mark.parametrize(("size", "before"), [(1, 0), (4, 0), (1, 5), (4, 8)])
def test_a_stop_text_ends_a_trace_with_its_last_token(every_byte_a_token, size, before):
    """It is found where it began in an earlier request, and nothing of what follows is kept."""
    text = "a</end or </end> and more"
    ids = every_byte_a_token.encode(text).ids
    sampling = replace(UNSURE, stop=("</end>", "more"))
    decoder = _Text(every_byte_a_token, ids[:before], request(sampling, text=text[:before]))
    said, n_tokens = text[:before], before
    for delta in deltas(ids[before:], [size] * len(ids)):
        chunk = decoder.add(delta)
        said, n_tokens = said + chunk.text, n_tokens + len(chunk.token_ids)
        if chunk.finish_reason is not None:
            break
    assert said == "a</end or </end>"
    assert n_tokens == len(said)
    assert chunk.finish_reason is FinishReason.STOP


def test_confidence_is_of_the_top_k_alone():
    """Top 2 of -0.5 and -1.5: 1.0, whether the sampled token is listed twice, once or beyond."""
    rows = [[-1.5, -0.5, -1.5], [-1.5, -0.5], [-7.0, -0.5, -1.5]]
    ends = np.cumsum([len(row) for row in rows]).tolist()
    logprobs = SimpleNamespace(logprobs=[x for row in rows for x in row], end_indices=ends)
    assert token_confidences(logprobs, 2) == [1.0, 1.0, 1.0]


@pytest.mark.skipif(has_vllm, reason="has vLLM")
def test_a_missing_vllm_is_an_error():
    with pytest.raises(InputError, match=r"deepprune\[vllm\]"):
        asyncio.run(VllmBackend("some/model").open(FORMAT, SAMPLING))


# With it.

on_the_engine = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not has_vllm, reason="needs vLLM: pip install 'deepprune[vllm]'"),
    pytest.mark.skipif(
        SMOLLM2 is None, reason="DEEPPRUNE_SMOLLM2: the folder of benchmarks/smollm2.py"
    ),
    pytest.mark.filterwarnings("default"),  # the engine's own
]


def vllm_tests(test):
    for mark in on_the_engine:
        test = mark(test)
    return test


def backend(**arguments):
    # float32: greedy decoding is the same in batches of any size
    settings = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True}
    return VllmBackend(SMOLLM2, **settings | arguments)


@pytest.fixture(scope="module")
def environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process fewer; starts sooner
        yield
    assert not cores(), "a process of vLLM is left"


@pytest.fixture(scope="module")
def live(environment):
    with closing(LiveEngine(backend(), FORMAT, SAMPLING)) as engine:
        engine.start()
        yield engine


def cores():
    """Processes of engines."""
    return {p.pid for p in multiprocessing.active_children() if p.name.startswith("EngineCore")}


def wait_until_free():
    """Wait until vLLM itself counts no running requests."""
    from vllm.v1.metrics.reader import get_metrics_snapshot

    def n_running():
        metrics = get_metrics_snapshot()
        return sum(m.value for m in metrics if m.name == "vllm:num_requests_running")

    until = time.monotonic() + 20
    while n_running() and time.monotonic() < until:
        time.sleep(0.05)
    assert n_running() == 0


def generate(live, *requests):
    """Text, token ends, ids, confidences and finish reason of each, generated side by side."""

    async def whole(one):
        said = SimpleNamespace(text="", token_end=[], token_ids=[], confidence=[], reason=None)
        async with aclosing(live.backend.stream(one)) as stream:
            async for chunk in stream:
                said.token_end += [len(said.text) + end for end in chunk.token_end]
                said.text += chunk.text
                said.token_ids += chunk.token_ids
                said.confidence += chunk.confidence
                said.reason = chunk.finish_reason
        return said

    async def all_of_them():
        return await asyncio.gather(*map(whole, requests))

    return live.call(all_of_them())


@vllm_tests
def test_token_ends_are_the_tokenizers_own(live):
    wild = replace(SAMPLING, temperature=2.0)  # any token, parts of characters among them
    tokenizer = Tokenizer.from_file(f"{SMOLLM2}/tokenizer.json")
    traces = generate(live, *(request(wild, seed=i) for i in range(6)))
    for trace in traces:
        prefixes = [tokenizer.decode(trace.token_ids[: i + 1]) for i in range(len(trace.token_ids))]
        for prefix, end in zip(prefixes, trace.token_end, strict=True):
            assert trace.text[:end] == prefix or prefix.endswith("\ufffd")
        assert len(trace.confidence) == len(trace.token_ids)
        assert min(trace.confidence) > 0
    assert {t.reason for t in traces} <= {FinishReason.STOP, FinishReason.LENGTH}


@vllm_tests
def test_seeds_decide(live):
    one, same, other = generate(live, *(request(seed=seed) for seed in (1, 1, 2)))
    assert one.text == same.text != other.text


@vllm_tests
def test_a_trace_that_goes_on_is_the_trace_uninterrupted(live):
    greedy = replace(SAMPLING, temperature=0.0)
    (whole,) = generate(live, request(greedy, question=STORY))
    for n in (1, 33):
        start = SimpleNamespace(ids=whole.token_ids[:n], text=whole.text[: whole.token_end[n - 1]])
        (rest,) = generate(
            live,
            request(greedy, 60 - n, question=STORY, text=start.text, token_ids=tuple(start.ids)),
        )
        assert start.text + rest.text == whole.text
        assert start.ids + rest.token_ids == whole.token_ids
        assert np.allclose(rest.confidence, whole.confidence[n:], atol=1e-3)


@vllm_tests
def test_stop_texts_stay_and_end_a_trace(live):
    greedy = replace(SAMPLING, temperature=0.0)
    (free,) = generate(live, request(greedy))
    stop = free.text[10:14]
    (stopped,) = generate(live, request(replace(greedy, stop=(stop,))))
    assert stopped.text == free.text[: free.text.index(stop) + 4]
    assert stopped.reason is FinishReason.STOP
    assert len(stopped.token_end) == len(stopped.token_ids) == len(stopped.confidence)


@vllm_tests
def test_an_answer_is_forced_out_on_the_cached_prefix(live):
    from vllm.v1.metrics.reader import get_metrics_snapshot

    def cached():
        return sum(m.value for m in get_metrics_snapshot() if m.name == "vllm:prefix_cache_hits")

    (trace,) = generate(live, request(replace(SAMPLING, temperature=0.0), question=STORY))
    n, before = 40, cached()
    text = trace.text[: trace.token_end[n - 1]]
    forced = replace(UNSURE, temperature=0.0)
    suffix = FORMAT.forced(text)
    (answer,) = generate(
        live, request(forced, 5, STORY, text=text, token_ids=trace.token_ids[:n], suffix=suffix)
    )
    assert 0 < len(answer.token_ids) <= 5
    assert answer.text.strip()
    assert cached() - before >= 64  # blocks of 32 out of some 90 tokens


@vllm_tests
def test_closing_a_stream_frees_its_seat(live):
    async def begin_and_leave():
        async def part(seed):
            async with aclosing(live.backend.stream(request(seed=seed))) as stream:
                async for _ in stream:
                    return

        async def whole(seed):
            async for _ in live.backend.stream(request(seed=seed)):
                pass

        tasks = [asyncio.create_task(whole(i)) for i in range(4)]
        await part(9)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    live.call(begin_and_leave())
    wait_until_free()


@vllm_tests
def test_what_cannot_be_served_is_refused(live):
    with pytest.raises(RequestError, match=r"more than engine\.max_model_len=512"):
        generate(live, request(question=Question("toy", "long", "and so on " * 300)))
    with pytest.raises(RequestError, match=r"an answer forced .* engine\.max_model_len=512"):
        generate(live, request(UNSURE, 20, text="x", token_ids=(100,) * 450, suffix=FORMAT.force))
    with pytest.raises(RequestError, match=r"vLLM fails the request: .*logprobs"):
        generate(live, request(replace(SAMPLING, logprobs=1000)))
    for refused, match in (
        (backend(max_model_len=50), r"engine\.max_model_len=50"),
        (backend(extra={"no_such_thing": 1}), "no_such_thing"),
        (VllmBackend("no/such/model"), "vLLM refuses the model"),
    ):
        with pytest.raises(InputError, match=match):
            asyncio.run(refused.open(FORMAT, SAMPLING))
    with pytest.raises(InputError, match=r"temperature must be in \[0, 2\]"):
        asyncio.run(backend().open(FORMAT, replace(SAMPLING, temperature=3.0)))
    strict = {"chat_template": "{{ raise_exception('no system role') }}"}
    with pytest.raises(InputError, match="refuses this prompt: no system role"):
        asyncio.run(backend().open(replace(FORMAT, chat_arguments=strict), SAMPLING))


class ScriptedEvidence:
    """A judge that finds traces of the same third of a question alike.

    How alike, every character and token confidence of their prefixes decides.
    """

    def __init__(self, session):
        self.session = session

    def score(self, pairs):
        alike = pairs[:, 0] % 3 == pairs[:, 1] % 3
        return np.where(alike, 0.8, 0.1) + [0.1 * self.fraction(*pair) for pair in pairs.tolist()]

    def fraction(self, *traces):
        seen = hashlib.sha256()
        for prefix in map(self.session.prefix, traces):
            seen.update(prefix.text.encode())
            seen.update(np.asarray(prefix.trace.token_confidence[: prefix.n_tokens]).tobytes())
        return int.from_bytes(seen.digest()[:4]) / 2**32

    def confidence(self, trace):
        raise NotImplementedError


@vllm_tests
@pytest.mark.parametrize("mode", ["stream", "resubmit"])
def test_a_replay_of_the_recording_decides_alike(live, mode, monkeypatch):
    monkeypatch.setattr(live, "mode", mode)
    policy = DeepPrune(FirstTokens(12), finish="representatives")
    session = live.open(QUESTION, live.model, 9, seed=3)
    outcome = run_question(policy, session, 9, ScriptedEvidence(session), np.random.default_rng(0))
    traces = session.traces()
    wait_until_free()

    stopped = {d.trace for d in outcome.decisions}
    assert {t.sample_id for t in traces if t.finish_reason is FinishReason.PRUNED} == stopped
    assert 0 < len(stopped) <= 6
    assert outcome.usage.tokens == sum(t.n_tokens for t in traces)
    if mode == "resubmit":
        assert all(traces[i].n_tokens == 12 for i in stopped)

    group = QuestionTraces(QUESTION, live.model, traces)
    recorded = ReplayEngine(group, shuffle=False).open(9, seed=0)
    again = run_question(policy, recorded, 9, ScriptedEvidence(recorded), np.random.default_rng(0))
    assert again.decisions == outcome.decisions  # to the last bit of their scores
    assert len({d.score for d in outcome.decisions}) == len(stopped)
    assert again.vote == outcome.vote


@vllm_tests
def test_a_run_that_breaks_leaves_no_request_behind(live):
    class Broken(ScriptedEvidence):
        def score(self, pairs):
            raise KeyboardInterrupt

    session = live.open(QUESTION, live.model, 6, seed=0)
    policy = DeepPrune(FirstTokens(5))
    with pytest.raises(KeyboardInterrupt):
        run_question(policy, session, 6, Broken(session), np.random.default_rng(0))
    assert {t.finish_reason for t in session.traces()} <= {FinishReason.CUT, FinishReason.STOP}
    wait_until_free()


@vllm_tests
def test_a_killed_engine_is_an_error_at_once(environment):
    before = cores()
    with closing(LiveEngine(backend(), FORMAT, SAMPLING)) as live:
        session = live.open(QUESTION, live.model, 4, seed=0)
        session.start(4)
        session.advance(2)
        (core,) = cores() - before
        os.kill(core, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(EngineError, match="vLLM's engine process died"):
            session.advance(None)
        with pytest.raises(EngineError, match="vLLM's engine process died"):
            generate(live, request())
        session.close()
        assert time.monotonic() - began < 20
        assert all(t.n_tokens >= 2 for t in session.traces())


@vllm_tests
def test_an_interrupt_ends_the_loading(environment):
    """As soon as the engine's process is there, which is long before it serves."""
    before = cores()

    async def interrupted():
        starting = backend()
        opening = asyncio.create_task(starting.open(FORMAT, SAMPLING))
        while not cores() - before:
            assert not opening.done()
            await asyncio.sleep(0.05)
        began = time.monotonic()
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await opening
        await starting.close()
        return time.monotonic() - began

    assert asyncio.run(interrupted()) < 10
    assert cores() == before
