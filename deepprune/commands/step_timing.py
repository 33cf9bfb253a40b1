"""Step times of an engine of your own, measured and fitted, for ``engine.steps=FILE``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path
from statistics import median

import numpy as np
from scipy.optimize import nnls

from deepprune.core.errors import InputError
from deepprune.core.files import write_atomic
from deepprune.core.protocols import FloatArray
from deepprune.core.types import Question
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.generation.backend import Backend, PromptFormat, Request, Sampling
from deepprune.generation.live import LiveEngine

STEPS = 64
"""Steps of a measurement."""

CONTEXT = 1024
"""Cached tokens of a trace at the start of the second measurement of each number of traces."""

SIZES = [2**i for i in range(8)]
"""Numbers of traces that run together."""

TimedEngine = tuple[LiveEngine, Callable[[str], GeneratorSize]]
"""An engine that is not started, and the size of a generator by its name."""


def time_steps(file: Path, engine: LiveEngine, size: Callable[[str], GeneratorSize]) -> None:
    """Measure the steps of an engine, fit `StepTimes` to them, write these to ``file``.

    Raises:
        InputError: If the generator's size is not known, or the traces cannot be timed.
        EngineError: If the engine does not start.
    """
    params = size(engine.model).params
    engine.prompt = PromptFormat("{question}", chat=False)
    try:
        engine.start()
        # greedy: vLLM on a CPU dies of a seeded request whose prompt it reads in parts
        sampling = replace(engine.sampling, temperature=0.0)
        found = engine.call(_measure(engine.backend, engine.prompt, sampling))
    finally:
        engine.close()
    n, kv, seconds = np.array(found).T
    costs, predicted = fitted(n, kv, seconds)
    names = ("weights_s", "compute_s", "kv_s", "flops_per_s")
    numbers = (*costs, 2 * params / costs[1])
    lines = [f"# Steps of {engine.model}: traces, cached tokens, measured and fitted milliseconds"]
    for (traces, tokens, took), said in zip(found, predicted.tolist(), strict=True):
        lines.append(f"# {traces:3.0f} {tokens:8,.0f} {1e3 * took:8.2f} {1e3 * said:8.2f}")
    error = 100 * float(np.median(abs(predicted / seconds - 1)))
    lines.append(f"# median error of the fit: {error:.0f} %")
    lines += [f"{name}: {value:.4g}" for name, value in zip(names, numbers, strict=True)]
    write_atomic(file, ("\n".join(lines) + "\n").encode())
    print(*lines, f"use it with engine.steps={file}", sep="\n")


def fitted(n: FloatArray, kv: FloatArray, seconds: FloatArray) -> tuple[list[float], FloatArray]:
    """Fit the costs of `StepTimes` to measured steps, and return what they predict.

    Least squares of relative errors, no cost below 0; every measured number of traces is tried as
    the last with which steps wait for the weights. If computing never takes longer than these, it
    gets the most that the largest number leaves room for.

    Args:
        n: Traces of each step, shape ``(S,)``.
        kv: Tokens that they attend to, ``(S,)``.
        seconds: Durations, ``(S,)``.
    """
    fits = []
    for last in np.unique(n):
        waits = n <= last
        columns = np.column_stack((waits, np.where(waits, 0, n), kv))
        (weights, compute, read), _ = nnls(columns / seconds[:, None], np.ones(len(n)))
        costs = [float(c) for c in (weights, compute or weights / n.max(), read)]
        predicted = np.maximum(costs[0], n * costs[1]) + kv * costs[2]
        fits.append((float(((predicted / seconds - 1) ** 2).sum()), costs, predicted))
    return min(fits, key=lambda fit: fit[0])[1:]


async def _measure(
    backend: Backend, prompt: PromptFormat, sampling: Sampling
) -> list[tuple[float, float, float]]:
    """Time steps of 1, 2, 4, ... traces, each at their start and after a context.

    Returns:
        Of each measurement traces, cached tokens, seconds a step.
    """
    if sampling.max_tokens < 3 * STEPS:
        raise InputError(
            f"timing needs sampling.max_tokens of {3 * STEPS} or more, got {sampling.max_tokens}."
        )
    first = Request(_counting(0), prompt, sampling, STEPS, seed=0)
    text, ids = "", list[int]()
    async with aclosing(backend.stream(first)) as chunks:
        async for chunk in chunks:
            text, ids = text + chunk.text, [*ids, *chunk.token_ids]
    if not ids:
        raise InputError("timing needs an engine that reports the ids of tokens: engine=vllm.")
    found = []
    for n in takewhile(lambda n: n <= (backend.seats or n), SIZES):
        for times in (0, min(CONTEXT, sampling.max_tokens - STEPS) // len(ids)):
            later = replace(first, text=text * times, token_ids=ids * times)
            requests = [replace(later, question=_counting(i), seed=i) for i in range(n)]
            found.append((n, n * (len(ids) * times + STEPS / 2), await _seconds(backend, requests)))
    return found


def _counting(start: int) -> Question:
    """Return a text that a model goes on with for long; different ones share no cache."""
    return Question("", "", "".join(f"{i}, " for i in range(start, start + 16)))


async def _seconds(backend: Backend, requests: Sequence[Request]) -> float:
    """Return the median seconds of a step while all of these run."""
    arrivals: list[list[tuple[float, int]]] = [[] for _ in requests]

    async def run(number: int) -> None:
        n_tokens = 0
        async with aclosing(backend.stream(requests[number])) as chunks:
            async for chunk in chunks:
                n_tokens += len(chunk.token_end)
                arrivals[number].append((time.perf_counter(), n_tokens))

    await asyncio.gather(*map(run, range(len(requests))))
    begin, end = max(each[0][0] for each in arrivals), min(each[-1][0] for each in arrivals)
    longest = max(arrivals, key=lambda each: each[-1][1])
    inside = [(at, n) for at, n in longest if begin <= at <= end]
    steps = inside[-1][1] - inside[0][1] if inside else 0
    if steps < STEPS / 4:
        raise InputError(
            f"{len(requests)} traces ran together for {steps} steps, too few to time: this model "
            "ends its texts too soon, or the engine runs fewer together."
        )
    return median((b - a) / (m - n) for (a, n), (b, m) in pairwise(inside))
