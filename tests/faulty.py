"""Engines and a judge with faults, for the ``_target_`` of a command."""

import asyncio
import time
from pathlib import Path

from deepprune.generation.backend import EngineError
from deepprune.generation.scripted import ScriptedBackend
from deepprune.judge.baselines import LexicalJudge
from deepprune.traces import open_traces


class Hanging(LexicalJudge):
    def score(self, pairs):
        time.sleep(3600)


class Dying(ScriptedBackend):
    async def stream(self, request):
        n = 0
        async for chunk in super().stream(request):
            n += 1
            if n == 50:
                raise EngineError("its process was killed")
            yield chunk


class Slow(ScriptedBackend):
    async def close(self):
        Path("closing").touch()
        await asyncio.sleep(2)
        Path("closed").touch()


def slow(traces, seconds_per_token, model):
    return Slow(open_traces(traces).load(), seconds_per_token)


class Unable(ScriptedBackend):
    can_continue = False


def dying(traces, seconds_per_token, model):
    return Dying(open_traces(traces).load(), seconds_per_token)


def unable(traces, seconds_per_token, model):
    return Unable(open_traces(traces).load(), seconds_per_token)
