"""Requests over real sockets, to a server that plays texts and fails on demand."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_server import FakeServer, tokens_of
from tiny_models import tiny_causal_tokenizer

from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason, Question
from deepprune.data.prefixes import FirstTokens
from deepprune.generation.backend import (
    EngineError,
    PromptFormat,
    Request,
    RequestError,
    Sampling,
    token_confidence,
)
from deepprune.generation.live import LiveEngine
from deepprune.generation.openai.client import OpenAIBackend
from deepprune.generation.openai.stream import _finish
from deepprune.pruning.controller import run_question
from deepprune.pruning.policies.deepprune import DeepPrune

pytest.importorskip("openai", reason="pip install 'deepprune[openai]'")

QUESTION = Question("toy", "q", "What is 6 times 7?", "42")
TEXTS = [
    "First, six sevens are forty-two, so the answer is \\boxed{42}.",
    "Let me add: 7 + 7 + 7 + 7 + 7 + 7 = 41, which gives \\boxed{41}.",
]
THOUGHT = "<think>\nSix sevens, hmm, 35 + 7.\n</think>\n\nIt is \\boxed{42}."
PLAIN = PromptFormat(template="Question: {question}\nAnswer: ", chat=False)
CHAT = PromptFormat(template="{question}")
SAMPLING = Sampling(max_tokens=200)


def serve(texts=TEXTS, **settings):
    return FakeServer({QUESTION.text: list(texts)}, **settings)


@asynccontextmanager
async def opened(server, format=CHAT, sampling=SAMPLING, **settings):
    settings = {"timeout_s": 120.0, "max_retries": 2, **settings}
    backend = OpenAIBackend(server.url, **settings)
    try:
        await backend.open(format, sampling)
        server.requests.clear()
        yield backend
    finally:
        await backend.close()


def request(format=CHAT, sampling=SAMPLING, **fields):
    fields = {"max_tokens": sampling.max_tokens, "seed": 0, **fields}
    return Request(QUESTION, format, sampling, **fields)


async def play(backend, asked):
    """All chunks of a request."""
    async with aclosing(backend.stream(asked)) as stream:
        return [chunk async for chunk in stream]


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def ends_of(chunks):
    """Ends of the tokens in the whole text."""
    ends, n_chars = [], 0
    for chunk in chunks:
        ends += [n_chars + end for end in chunk.token_end]
        n_chars += len(chunk.text)
    return ends


def pieces(text, ends):
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


# name: abilities, format, how it continues, who counts
SERVERS = {
    "vllm": ({"token_ids": True, "tokenize": True}, CHAT, "completions", "generator"),
    "vllm without a template": (
        {"token_ids": True, "tokenize": True},
        PLAIN,
        "completions",
        "generator",
    ),
    "plain completions": ({"chat": False}, PLAIN, "completions", "generator"),
    "no logprobs": ({"logprobs": False}, PLAIN, "completions", "chunks"),
    "prefill by flag": ({"completions": False}, CHAT, "continue_final_message", "generator"),
    "prefill by last message": (
        {"completions": False, "prefill": "last", "strict": True},
        CHAT,
        "prefill",
        "generator",
    ),
    "chat only": (
        {"completions": False, "prefill": "none", "strict": True, "logprobs": False},
        CHAT,
        None,
        "chunks",
    ),
    "chat that refuses prefill": (
        {"completions": False, "prefill": "refuse", "usage": False},
        CHAT,
        None,
        "generator",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_finds_out_what_a_server_can_do(name):
    abilities, format, continuation, counter = SERVERS[name]

    async def run():
        with serve(**abilities, tokens_per_chunk=2) as server:
            async with opened(server, format) as backend:
                assert backend.model == "fake-model"
                assert backend.continuation == continuation
                assert backend.can_continue == (continuation is not None)
                assert backend.token_counter == counter
                chunks = await play(backend, request(format, seed=1))
                assert text_of(chunks) == TEXTS[1]
                assert [c.finish_reason for c in chunks if c.finish_reason] == [FinishReason.STOP]
                ends = ends_of(chunks)
                assert len(ends) == len(tokens_of(TEXTS[1]))  # by the server's usage, without more
                if counter == "generator" and not abilities.get("token_ids"):
                    assert pieces(TEXTS[1], ends) == tokens_of(TEXTS[1])
                if not backend.can_continue:
                    return
                # cut anywhere and gone on with, it is the same text
                first = await play(backend, request(format, seed=1, max_tokens=7))
                assert first[-1].finish_reason is FinishReason.LENGTH
                ids = [i for chunk in first for i in chunk.token_ids]
                assert bool(ids) == bool(abilities.get("token_ids"))
                begun = text_of(first)
                rest = await play(
                    backend, request(format, seed=5, text=begun, token_ids=ids, max_tokens=193)
                )
                assert begun + text_of(rest) == TEXTS[1]
                if ids:
                    sent = server.requests[-1][1]["prompt"]
                    assert sent[-7:] == ids
                forced = await play(
                    backend, request(format, text=begun, suffix=format.force, max_tokens=3)
                )
                assert text_of(forced) == "41} is"

    asyncio.run(run())


def test_chat_template_of_a_local_tokenizer(tmp_path):
    """It writes the prompt of a completion; the server gets token ids."""
    tokenizer = tiny_causal_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{{ mood }} <assistant>"
    )
    tokenizer.save_pretrained(tmp_path)
    format = replace(CHAT, system="Be brief.", chat_arguments={"mood": "gay"})

    async def run():
        with serve(decode=tokenizer.decode) as server:
            async with opened(server, format, tokenizer=str(tmp_path)) as backend:
                assert backend.continuation == "completions"
                await play(backend, request(format, text="six sevens", max_tokens=2))
                rendered = f"<system> Be brief. <user> {QUESTION.text} gay <assistant>"
                sent = server.requests[-1][1]["prompt"]
                assert sent == tokenizer(rendered)["input_ids"] + tokenizer("six sevens").input_ids

    asyncio.run(run())


def test_confidences_are_the_mean_of_the_top_k():
    async def run():
        for abilities, format in (({"chat": False}, PLAIN), ({"completions": False}, CHAT)):
            sampling = replace(SAMPLING, logprobs=3)
            with serve(**abilities) as server:
                async with opened(server, format, sampling) as backend:
                    chunks = await play(backend, request(format, sampling))
                    # -0.5, -1.5, -2.5 of each token
                    assert [c for chunk in chunks for c in chunk.confidence] == [1.5] * len(
                        tokens_of(TEXTS[0])
                    )

    asyncio.run(run())


@pytest.mark.parametrize("bad", ["null", "nan", "inf", "clamped", "absent"])
def test_log_probabilities_that_are_no_numbers_are_no_confidence(bad):
    """Every fifth token has only such: its confidence is 0, the others' 1.5 as above."""

    async def run():
        for abilities, format in (({"chat": False}, PLAIN), ({"completions": False}, CHAT)):
            sampling = replace(SAMPLING, logprobs=3)
            with serve(**abilities, logprob=bad) as server:
                async with opened(server, format, sampling) as backend:
                    chunks = await play(backend, request(format, sampling))
                    assert text_of(chunks) == TEXTS[0]
                    found = [c for chunk in chunks for c in chunk.confidence]
                    n = len(tokens_of(TEXTS[0]))
                    assert found == [0.0 if i % 5 == 4 else 1.5 for i in range(n)]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("logprobs", "k", "confidence"),
    [
        ([-1.0, -3.0, -2.0], 2, 1.5),
        ([-1.0, None, -3.0], 3, 2.0),
        ([-0.5, float("nan"), float("-inf"), -9999.0], 4, 0.5),
        ([None, float("inf"), -12000.0], 3, 0.0),
        ([], 5, 0.0),
    ],
)
def test_token_confidence(logprobs, k, confidence):
    assert token_confidence(logprobs, k) == confidence


def test_confidences_that_cannot_be_had():
    async def run():
        message = "logprobs=20 needs log-probabilities"
        for abilities in ({"logprobs": False}, {"refuses": "logprobs"}):
            with serve(**abilities) as server, pytest.raises(InputError, match=message):
                async with opened(server, PLAIN, replace(SAMPLING, logprobs=20)):
                    pass

    asyncio.run(run())


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_stand_before_the_answer(field):
    format = replace(CHAT, think_end="</think>")

    async def run():
        with serve([THOUGHT], completions=False, reasoning=field) as server:
            async with opened(server, format) as backend:
                chunks = await play(backend, request(format))
                assert text_of(chunks) == THOUGHT
                ends = ends_of(chunks)
                assert ends == sorted(ends)
                assert ends[-1] == len(THOUGHT)
                assert len(ends) == len(tokens_of(THOUGHT))

    asyncio.run(run())


@pytest.mark.parametrize("abilities", [{}, {"strict": True}, {"strict": True, "chat": False}])
def test_stop_texts_stay_in_the_trace(abilities):
    """A strict server cuts them off: the one that it names is put back."""
    sampling = replace(SAMPLING, stop=("sevens are", "no such"))
    format = PLAIN if "chat" in abilities else CHAT

    async def run():
        with serve(**abilities) as server:
            async with opened(server, format, sampling) as backend:
                chunks = await play(backend, request(format, sampling))
                assert text_of(chunks) == "First, six sevens are"
                other = await play(backend, request(format, sampling, seed=1))
                assert text_of(other) == TEXTS[1]

    asyncio.run(run())


@pytest.mark.parametrize("finish", ["empty", "never"])
@pytest.mark.parametrize("abilities", [{"chat": False}, {"completions": False}])
def test_an_empty_finish_reason_ends_nothing(abilities, finish):
    """A stream that never has another one ends with the server's count of its tokens."""
    format = PLAIN if "chat" in abilities else CHAT

    async def run():
        with serve(**abilities, finish=finish) as server:
            async with opened(server, format) as backend:
                for n, reason in ((200, FinishReason.STOP), (7, FinishReason.LENGTH)):
                    chunks = await play(backend, request(format, max_tokens=n))
                    assert text_of(chunks) == "".join(tokens_of(TEXTS[0])[:n])
                    assert [c.finish_reason for c in chunks if c.finish_reason] == [reason]
                server.fault("drop", after=4)  # a stream that breaks off has no count
                assert text_of(await play(backend, request(format))) == TEXTS[0]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, None),
        ("", None),
        ("stop", FinishReason.STOP),
        ("content_filter", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("max_tokens", FinishReason.LENGTH),
    ],
)
def test_finish_reasons(said, reason):
    assert _finish(said) == reason


# abilities, engine.omit, what requests lack, what limits them
REFUSED = {
    "max_tokens": ({"refuses": "max_tokens"}, (), [], "max_completion_tokens"),
    "seed": ({"refuses": "seed"}, (), ["seed"], "max_tokens"),
    "top_k": ({"refuses": "top_k"}, (), ["top_k"], "max_tokens"),
    "all, one at a time": (
        {"refuses": "max_tokens top_k return_token_ids seed stream_options logprobs"},
        (),
        ["seed", "top_k"],
        "max_completion_tokens",
    ),
    "all, in other words": (
        {"refuses": "seed top_k max_tokens", "says": "Extra inputs are not permitted."},
        (),
        ["seed", "top_k"],
        "max_completion_tokens",
    ),
    "a strict server": ({"strict": True}, (), ["top_k"], "max_tokens"),
    "by option": ({}, ("seed",), ["seed"], "max_tokens"),
    "by option, refused": (
        {"refuses": "temperature top_p seed"},
        ("temperature", "top_p", "seed"),
        ["seed", "temperature", "top_p"],
        "max_tokens",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_a_server_refuses_are_left_out_and_said(name, caplog):
    abilities, omit, omitted, limit = REFUSED[name]
    sampling = replace(SAMPLING, top_k=20)

    async def run():
        with serve(**abilities, completions=False) as server:
            async with opened(server, CHAT, sampling, omit=omit) as backend:
                assert backend.omitted == omitted
                said = [r.getMessage() for r in caplog.records if "requests to" in r.getMessage()]
                assert len(said) == bool(omitted or limit != "max_tokens")
                assert all(field in said[0] for field in omitted)
                assert text_of(await play(backend, request(CHAT, sampling))) == TEXTS[0]
                ((_, body),) = server.requests
                assert body[limit] == 200
                assert not body.keys() & {*omitted, *abilities.get("refuses", "").split()}

    asyncio.run(run())


def test_seeds_that_no_request_had_are_not_recorded():
    with (
        serve(refuses="seed", chat=False) as server,
        closing(LiveEngine(OpenAIBackend(server.url), PLAIN, SAMPLING)) as live,
    ):
        trace = live.generate(QUESTION, 0, seed=3).result(timeout=30)
        assert trace.seed is None
        assert live.facts()["omitted"] == ["seed"]


def test_a_field_that_cannot_be_left_out():
    async def run():
        message = r"'temperature'.; engine.omit=\[FIELD\] leaves a field out"
        with (
            serve(refuses="temperature", completions=False) as server,
            pytest.raises(InputError, match=message),
        ):
            async with opened(server):
                pass

    asyncio.run(run())

    asyncio.run(run())


def test_what_is_asked_for_and_cannot_be_had():
    cases = [
        ({"completions": False}, CHAT, {"api": "completions"}, "api=completions cannot be had"),
        ({"completions": False}, PLAIN, {}, "prompt.chat=false needs /v1/completions"),
        ({}, CHAT, {"api": "completions"}, "give engine.tokenizer"),
        ({"chat": False}, CHAT, {"api": "chat"}, "has no chat"),
        ({"models": ("a", "b")}, CHAT, {}, "it lists a, b"),
        ({}, CHAT, {"model": "c"}, r"serves \(fake-model\), got 'c'"),
        ({}, CHAT, {"tokenizer": "/no/such/folder"}, "engine.tokenizer must be"),
    ]

    async def run():
        for abilities, format, settings, message in cases:
            with serve(**abilities) as server, pytest.raises(InputError, match=message):
                async with opened(server, format, **settings):
                    pass

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"base_url": url}, "recorded and must not carry a key")
            for url in (
                "http://me:secret@host/v1",
                "me:secret@host/v1",
                "http://host/v1?key=secret",
                "http://host/v1#secret",
            )
        ),
        ({"base_url": "localhost:8000"}, "must be like http://"),
        ({"api": "chats"}, "auto, completions, chat, got 'chats'"),
        ({"api_key_env": "sk-secret"}, "is not shown"),
        ({"timeout_s": 0}, "must be > 0, got 0"),
        ({"max_concurrent": 0}, r"\[1, 1000\], got 0"),
        ({"omit": ["stream"]}, "engine.omit must not be stream"),
    ],
)
def test_checks_arguments(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        OpenAIBackend(**{"base_url": "http://localhost/v1", **settings})
    assert "secret" not in str(caught.value)


MENDED = {
    "500": {"kind": "status", "status": 500},
    "429": {"kind": "status", "status": 429, "retry_after": 0.3},
    "hang": {"kind": "hang"},
    "stall": {"kind": "stall", "after": 4},
    "close at once": {"kind": "close"},
    "close": {"kind": "close", "after": 4},
    "early end": {"kind": "drop", "after": 4},
    "malformed": {"kind": "malformed", "after": 4},
    "another shape": {"kind": "wrong", "after": 4},
    "error in the stream": {"kind": "error", "after": 4},
}


@pytest.mark.parametrize("name", MENDED)
def test_outlives_faults(name):
    """Two in a row, and the text is as without them; nothing is left running."""

    async def run():
        with serve(chat=False) as server:
            is_silent = name in ("hang", "stall")
            limits = {"timeout_s": 0.5, "max_retries": 20} if is_silent else {"max_retries": 5}
            async with opened(server, PLAIN, **limits) as backend:
                server.fault(times=2, **MENDED[name])
                chunks = await play(backend, request(PLAIN))
                assert text_of(chunks) == TEXTS[0]
                assert pieces(TEXTS[0], ends_of(chunks)) == tokens_of(TEXTS[0])
                assert chunks[-1].finish_reason is FinishReason.STOP
                assert len(server.requests) == 3 or (is_silent and len(server.requests) > 3)
                assert server.wait_idle()

    asyncio.run(run())


def test_the_tokens_of_a_question_are_requested_once():
    async def run():
        with serve(token_ids=True, tokenize=True) as server:
            async with opened(server) as backend:
                server.requests.clear()
                await asyncio.gather(*(play(backend, request(seed=i)) for i in range(4)))
                assert [path for path, _ in server.requests].count("/tokenize") == 1

    asyncio.run(run())


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_fault_at_the_start_does_not_change_the_api(status):
    async def run():
        with serve(token_ids=True, tokenize=True) as server:
            server.fault("tokenize", times=2, status=status)
            async with opened(server) as backend:
                assert backend.continuation == "completions"

    asyncio.run(run())


@pytest.mark.parametrize("abilities", [{"chat": False}, {"completions": False}])
def test_half_a_character_does_not_end_a_run(abilities):
    """JSON can carry a lone surrogate, UTF-8 cannot: it is replaced, and no place moves."""
    text = "six \ud83d sevens: \\boxed{42}"
    format = PLAIN if "chat" in abilities else CHAT

    async def run():
        with serve([text], **abilities) as server:
            async with opened(server, format) as backend:
                chunks = await play(backend, request(format))
                whole = text.replace("\ud83d", "\ufffd")
                assert text_of(chunks) == whole
                assert pieces(whole, ends_of(chunks)) == tokens_of(whole)
                server.fault("status", status=400, message="what is \ud83d?")
                with pytest.raises(RequestError, match="what is \ufffd\\?"):
                    await play(backend, request(format))

    asyncio.run(run())


def test_what_no_retry_mends():
    async def run():
        with serve(completions=False, prefill="none") as server:
            async with opened(server, max_retries=1) as backend:
                server.fault("close", after=4)
                with pytest.raises(RequestError, match="after 4 tokens, and the server cannot go"):
                    await play(backend, request())
                server.fault("close", times=1)  # nothing was generated yet
                assert text_of(await play(backend, request())) == TEXTS[0]
                server.fault("status", status=400, message="too long")
                began = len(server.requests)
                with pytest.raises(RequestError, match="answered 400: too long"):
                    await play(backend, request())
                assert len(server.requests) == began + 1
                server.fault("status", times=2, status=503)
                with pytest.raises(RequestError, match=r"answered 503.*given up after 1 retries"):
                    await play(backend, request())
                assert server.wait_idle()

    asyncio.run(run())


def test_a_server_that_is_gone():
    async def run(**abilities):
        with serve(seconds_per_token=0.02, **abilities) as server:
            async with opened(server, max_retries=1) as backend:
                stream = backend.stream(request())
                await anext(stream)
                server.close()
                with pytest.raises(EngineError, match=f"the server at {server.url} is gone"):
                    async for _ in stream:
                        pass
        backend = OpenAIBackend(server.url, max_retries=0)
        with pytest.raises(EngineError, match="is gone, or was never there"):
            await backend.open(CHAT, SAMPLING)
        await backend.close()

    asyncio.run(run(completions=False))
    asyncio.run(run(completions=False, prefill="none"))


def test_closing_ends_the_request_and_frees_the_seat():
    async def run():
        with serve(["and on " * 1000], seconds_per_token=0.01, tokenize=True) as server:
            async with opened(server, max_concurrent=2) as backend:
                assert backend.seats == 2
                server.n_disconnected = 0

                async def first_tokens(seed):
                    async with aclosing(backend.stream(request(seed=seed))) as stream:
                        async for _ in stream:
                            return

                # each gets a seat only once another has been closed
                await asyncio.gather(*map(first_tokens, range(6)))
                assert server.wait_idle()
                assert server.n_disconnected == 6  # before their texts of 2,000 tokens ended
                has_begun = asyncio.Event()

                async def run_on():
                    async with aclosing(backend.stream(request())) as stream:
                        async for _ in stream:
                            has_begun.set()

                task = asyncio.create_task(run_on())
                await has_begun.wait()
                task.cancel()
                await asyncio.wait([task])
                assert server.wait_idle()
                assert len(await play(backend, request(max_tokens=3))) == 3

    asyncio.run(run())


def test_the_key_is_sent_and_never_shown(monkeypatch, caplog):
    key = "sk-very-secret-0123"
    caplog.set_level(logging.DEBUG)

    async def run(server):
        shown = []
        monkeypatch.setenv("MY_KEY", key)
        async with opened(server, api_key_env="MY_KEY", max_retries=0) as backend:
            assert server.headers[-1]["authorization"] == f"Bearer {key}"
            shown.append(repr(vars(backend)["base_url"]))
            for status, error in ((400, RequestError), (500, RequestError), (403, EngineError)):
                server.fault("status", status=status, message=f"what is {key}?")
                with pytest.raises(error) as caught:
                    await play(backend, request())
                shown.append(str(caught.value))
                shown += traceback.format_exception(caught.value)
                assert caught.value.__context__ is None
        monkeypatch.setenv("MY_KEY", key + "x")
        with pytest.raises(EngineError, match="environment variable MY_KEY") as caught:
            async with opened(server, api_key_env="MY_KEY"):
                pass
        shown += traceback.format_exception(caught.value)
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(EngineError, match="MY_KEY, which is unset"):
            async with opened(server, api_key_env="MY_KEY"):
                pass
        return "\n".join(shown) + caplog.text

    with serve(key=key) as server:
        assert key not in asyncio.run(run(server))


# Through a live session

LONG = [
    " ".join([f"Way{i}:", *(f"then{i}" for _ in range(33)), f"hence \\boxed{{{40 + i % 3}}}."])
    for i in range(24)
]


class SameAnswer:
    """A judge that knows how the texts end."""

    def __init__(self, session):
        self.session = session

    def score(self, pairs):
        ends = [
            [text_begun(self.session.prefix(i).text)[-4:] for i in pair] for pair in pairs.tolist()
        ]
        return np.array([float(a == b) for a, b in ends])


def text_begun(prefix):
    return next(text for text in LONG if text.startswith(prefix))


@pytest.mark.parametrize("mode", ["stream", "resubmit"])
@pytest.mark.parametrize("name", ["vllm", "plain completions", "prefill by flag"])
def test_prunes_on_a_server(name, mode):
    abilities, format, *_ = SERVERS[name]
    with (
        serve(LONG, seconds_per_token=0.004, **abilities) as server,
        closing(LiveEngine(OpenAIBackend(server.url), format, SAMPLING, mode=mode)) as live,
    ):
        live.start()
        server.n_started = server.n_disconnected = 0
        session = live.open(QUESTION, live.model, 8, seed=3)
        policy = DeepPrune(FirstTokens(9), max_finishers=1)
        evidence = SameAnswer(session)
        outcome = run_question(policy, session, 8, evidence, np.random.default_rng(0))
        traces = session.traces()
        stopped = [decision.trace for decision in outcome.decisions]
        assert len(stopped) >= 5
        for i, trace in enumerate(traces):
            if trace.finish_reason is FinishReason.PRUNED:
                assert i in stopped
                assert trace.n_tokens == 9 or (mode == "stream" and trace.n_tokens >= 9)
                assert text_begun(trace.text) != trace.text
            else:
                assert trace.text in LONG  # cut and gone on with, it is what it would have been
                assert trace.n_tokens == len(tokens_of(trace.text))
        assert outcome.usage.tokens == sum(trace.n_tokens for trace in traces)
        assert outcome.vote.voters
        assert server.wait_idle()
        if mode == "stream":
            n_pruned = sum(trace.finish_reason is FinishReason.PRUNED for trace in traces)
            assert (server.n_started, server.n_disconnected) == (8, n_pruned)
        else:
            assert (server.n_started, server.n_disconnected) == (8 + 8 - len(stopped), 0)


def test_resubmit_needs_a_server_that_continues():
    with serve(completions=False, prefill="none") as server:
        live = LiveEngine(OpenAIBackend(server.url), CHAT, SAMPLING, mode="resubmit")
        with pytest.raises(InputError, match=r"live\.mode=resubmit needs a server that goes on"):
            live.start()


@pytest.mark.slow
@pytest.mark.parametrize("prefill", ["flag", "none"])
def test_a_killed_server_ends_the_question_and_loses_no_text(prefill, tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({QUESTION.text: LONG}))
    script = Path(__file__).with_name("fake_server.py")
    settings = ["--completions=false", f"--prefill={prefill}", "--seconds-per-token=0.1"]
    server = subprocess.Popen(
        [sys.executable, str(script), f"--texts={texts}", *settings],
        stdout=subprocess.PIPE,
        text=True,
    )
    live = None
    try:
        url = server.stdout.readline().strip()
        live = LiveEngine(OpenAIBackend(url, max_retries=1), CHAT, SAMPLING)
        session = live.open(QUESTION, "fake-model", 6, seed=0)
        session.start(6)
        assert session.advance(5).n_tokens.tolist() == [5] * 6
        server.kill()
        with pytest.raises(EngineError, match=f"the server at {url} is gone"):
            session.advance(None)
        for trace in session.traces():
            assert trace.n_tokens >= 5
            assert trace.finish_reason is FinishReason.CUT
            assert text_begun(trace.text) != trace.text
        session.close()
    finally:
        if live is not None:
            live.close()
        server.kill()
        server.wait()
        server.stdout.close()


# The real one


def n_running(root):
    with urllib.request.urlopen(f"{root}/metrics") as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(r"^vllm:num_requests_running\{.*\} (\S+)", text, re.M)))


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory):
    """vLLM's own server with SmolLM2."""
    pytest.importorskip("vllm")
    folder = os.environ.get("DEEPPRUNE_SMOLLM2")
    if folder is None:
        pytest.skip("DEEPPRUNE_SMOLLM2 names no folder of SmolLM2-135M-Instruct: use .ci/vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", folder]
    settings = {"max-model-len": 1024, "max-num-seqs": 16, "block-size": 32, "port": port}
    settings["served-model-name"] = "smollm2"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--enforce-eager", *(f"--{k}={v}" for k, v in settings.items())],
            stdout=output,
            stderr=output,
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # its engine is a process of its own
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert server.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{url}/health").close()
                break
            except OSError:
                time.sleep(0.5)
        yield url, server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.vllm
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("api", "continuation"),
    [("completions", "completions"), ("chat", "continue_final_message")],
)
def test_vllm_server(vllm_url, api, continuation):
    url, _ = vllm_url
    sampling = Sampling(max_tokens=60, temperature=0.0, logprobs=4)
    counting = Question("toy", "count", "Count from 1 to 50, separated by commas.")

    def asked(**fields):
        return Request(
            counting, PromptFormat(template="{question}"), sampling, **{"seed": 0, **fields}
        )

    async def run():
        backend = OpenAIBackend(f"{url}/v1", api=api, extra_body={"ignore_eos": True})
        await backend.open(CHAT, sampling)
        assert backend.continuation == continuation
        assert (backend.model, backend.token_counter) == ("smollm2", "generator")
        whole = await play(backend, asked(max_tokens=60))
        assert len(ends_of(whole)) == 60
        assert whole[-1].finish_reason is FinishReason.LENGTH
        confidence = [c for chunk in whole for c in chunk.confidence]
        assert len(confidence) == 60
        assert min(confidence) > 0
        first = await play(backend, asked(max_tokens=25))
        begun, ids = text_of(first), tuple(i for chunk in first for i in chunk.token_ids)
        assert len(ids) == 25
        rest = await play(backend, asked(max_tokens=35, text=begun, token_ids=ids))
        assert begun + text_of(rest) == text_of(whole)

        are_generating = asyncio.Semaphore(0)

        async def endless(seed):
            async with aclosing(backend.stream(asked(max_tokens=800, seed=seed))) as stream:
                await anext(stream)
                are_generating.release()
                async for _ in stream:
                    pass

        tasks = [asyncio.create_task(endless(i)) for i in range(4)]
        for _ in tasks:
            await are_generating.acquire()
        assert await asyncio.to_thread(n_running, url) == 4
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        end = time.monotonic() + 20
        while await asyncio.to_thread(n_running, url):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        await backend.close()

    asyncio.run(run())


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_vllm_server_killed(vllm_url):
    """The last test of the server."""
    url, server = vllm_url
    live = LiveEngine(
        OpenAIBackend(f"{url}/v1", max_retries=1, extra_body={"ignore_eos": True}),
        CHAT,
        Sampling(max_tokens=900),
    )
    session = live.open(QUESTION, "smollm2", 4, seed=0)
    session.start(4)
    session.advance(5)
    os.killpg(server.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="is gone"):
        session.advance(None)
    assert all(trace.n_tokens >= 5 for trace in session.traces())
    session.close()
    live.close()
