"""``deepprune doctor``: what is missing, and the step times of an engine."""

import asyncio

import numpy as np
import pytest
from commandline import run

from deepprune.commands import doctor
from deepprune.commands.step_timing import CONTEXT, SIZES, STEPS, _measure, fitted
from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason
from deepprune.generation.backend import Chunk, PromptFormat, Sampling


def test_what_is_missing_comes_with_the_line_that_installs_it(monkeypatch, capsys):
    """A package and a version, of those that the metadata lists."""
    extras = ['vllm>=0.32; extra == "vllm"', 'altair; extra == "report"']
    there = {"numpy": "2.1", "torch": "2.12.0", "altair": "6.3"}
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=2", "torch>=2.13", *extras])
    monkeypatch.setattr(doctor, "installed", there.get)
    assert doctor.main([], engine=None) == 1
    lines = {line[:55].strip(): line[55:] for line in capsys.readouterr().out.splitlines()}
    torch = "torch is 2.12.0, not >=2.13"
    assert lines["figures"] == f"no, {torch}: pip install --upgrade 'deepprune[report]'"
    said = f"no, {torch}; vllm is missing: pip install --upgrade 'deepprune[vllm]'"
    assert lines["collect, prune engine=vllm; judge.backend=vllm"] == said
    there["torch"] = "2.13.0+cpu"
    assert doctor.main([], engine=None) == 0
    assert "figures                                                yes" in capsys.readouterr().out


def test_options_belong_to_an_engine(tmp_path):
    said = run("doctor", "engine=vllm", folder=tmp_path, code=2).stderr
    assert "only with --engine FILE, got engine=vllm" in said
    said = run("doctor", "--engine", "f", "engine.model=mine", folder=tmp_path, code=2).stderr
    assert "'mine' is not among" in said


def test_costs_are_found_in_the_steps_that_they_make():
    """10 ms of weights, 2 ms a trace, 3 us a token: reached at 5 traces, never up to 4."""
    n, context = (grid.ravel() for grid in np.meshgrid([1.0, 2, 4, 8, 16], [10.0, 1000]))
    for most, computing in ((16, 2e-3), (4, 10e-3 / 4)):
        some = n <= most
        traces, kv = n[some], (n * context)[some]
        costs, predicted = fitted(traces, kv, np.maximum(10e-3, traces * 2e-3) + kv * 3e-6)
        assert costs == pytest.approx([10e-3, computing, 3e-6])
        assert predicted == pytest.approx(np.maximum(10e-3, traces * 2e-3) + kv * 3e-6)


class Counter:
    """A backend that writes one token a turn of the event loop."""

    seats = 8

    def __init__(self, length=STEPS):
        self.length = length
        self.asked = []

    async def stream(self, request):
        self.asked.append(request)
        for i in range(self.length):
            await asyncio.sleep(0)
            end = FinishReason.LENGTH if i == self.length - 1 else None
            yield Chunk("1 ", [2], [1], finish_reason=end)


def test_steps_are_timed_with_and_without_a_context():
    backend, prompt = Counter(), PromptFormat("{question}", chat=False)
    found = asyncio.run(_measure(backend, prompt, Sampling(max_tokens=4096)))
    assert [(n, kv) for n, kv, _ in found] == [
        (n, n * (context + STEPS / 2)) for n in SIZES if n <= 8 for context in (0, CONTEXT)
    ]
    assert all(seconds > 0 for *_, seconds in found)
    last = backend.asked[-8:]
    assert len({request.question for request in last}) == 8
    assert {len(request.token_ids) for request in last} == {CONTEXT}
    with pytest.raises(InputError, match="1 traces ran together for 2 steps, too few"):
        asyncio.run(_measure(Counter(3), prompt, Sampling(max_tokens=4096)))
    with pytest.raises(InputError, match=f"of {3 * STEPS} or more, got 100"):
        asyncio.run(_measure(backend, prompt, Sampling(max_tokens=100)))
