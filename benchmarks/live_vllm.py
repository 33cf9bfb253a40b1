"""Measure the wall-clock overhead and saving of live pruning on vLLM, as ratios within one run.

    python benchmarks/live_vllm.py MODEL [--questions 20] [--traces 32] [--max-tokens 96]
        [--logprobs 5] [--json FILE]

Every trace has ``max-tokens`` tokens: the model's end of text is ignored. Every contender runs each
question, in an order drawn for each question, so that drift and previous runs affect all alike.
Times are wall-clock, from the first request to the vote.

- ``plain``: ``AsyncLLM`` alone with the same requests: prompt ids, sampling, seeds; text streamed.
- ``consensus``: the same traces through ``LiveEngine`` and ``run_question``, up to the vote.
- ``stream``, ``resubmit``: DeepPrune with a scripted judge that takes no time. It stops three
  quarters of the traces at a quarter of their length. Its scores depend on every character and
  token confidence of the prefixes, so decisions agree only if a replay shows the same prefixes.

Targets: consensus / plain at most 1.03; stream / consensus at most 0.6; token saving within 2 % of
the replay of the same traces; from decision to free seat at most 2 engine steps, median; a replay
of the recording gives the same decisions and the same vote. The exit code is 0 if all are met.

Seats are free once the engine's scheduler reports no more running requests than there are kept
traces. Steps are counted by its reports, from the decision to that report inclusive: 1 is the step
that was in progress.

The lower bound set by the engine is printed below the ratio of `stream`: all traces run a quarter
of the steps, and a quarter of the traces runs the rest, so pruning at that point cannot be below
0.25 + 0.75 t8 / t32, where t8 and t32 are mean step times with 8 and 32 running traces.

Without a GPU, with SmolLM2 (`smollm2.py`), the engine on one core and the controller on the other:

    export VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 VLLM_ENABLE_V1_MULTIPROCESSING=0
"""

import argparse
import asyncio
import hashlib
import json
import platform
import statistics
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deepprune.core.seeding import derive
from deepprune.core.types import Question, QuestionTraces, Trace
from deepprune.data.prefixes import FirstTokens
from deepprune.generation.backend import PromptFormat, Request, Sampling
from deepprune.generation.live import LiveEngine
from deepprune.generation.vllm import VllmBackend
from deepprune.pruning.controller import Outcome, run_question
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import ReplayEngine

KEPT = 4  # one in KEPT traces continues; the others are stopped at 1/KEPT of their length
CONTENDERS = ("plain", "consensus", "stream", "resubmit")


class FixedLength(VllmBackend):
    """Backend whose traces never end before ``max-tokens``."""

    def sampling_parameters(self, request: Request) -> Any:
        parameters = super().sampling_parameters(request)
        parameters.ignore_eos = True
        return parameters


class ScriptedJudge:
    """Score traces as alike if their indices are equal modulo the number of clusters.

    Scores lie in [0.8, 0.9) or in [0.1, 0.2). The position inside the interval is a hash of the
    prefixes, so one more character or token confidence changes the score.
    """

    def __init__(self, session, n_clusters: int) -> None:
        self.session = session
        self.n_clusters = n_clusters

    def score(self, pairs):
        alike = pairs[:, 0] % self.n_clusters == pairs[:, 1] % self.n_clusters
        return np.where(alike, 0.8, 0.1) + [0.1 * self._fraction(*pair) for pair in pairs.tolist()]

    def _fraction(self, *traces: int) -> float:
        """Hash everything shown of the traces to [0, 1)."""
        seen = hashlib.sha256()
        for i in traces:
            prefix = self.session.prefix(i)
            seen.update(prefix.text.encode())
            if prefix.trace.token_confidence is not None:
                shown = prefix.trace.token_confidence[: prefix.n_tokens]
                seen.update(np.asarray(shown).tobytes())
        return int.from_bytes(seen.digest()[:4]) / 2**32

    def confidence(self, trace):
        raise NotImplementedError


class DecisionClock:
    """Record the time of the first decision."""

    def __init__(self) -> None:
        self.at: float | None = None

    def on_checkpoint(self, step, seen) -> None:
        pass

    def on_decision(self, decision) -> None:
        self.at = self.at or time.monotonic()


@contextmanager
def engine_steps(backend: VllmBackend):
    """Yield the list of (time, running requests) that the scheduler reports after each step."""
    manager = backend._engine.logger_manager
    record, steps = manager.record, []

    def noting(*, scheduler_stats=None, **rest):
        if scheduler_stats is not None:
            steps.append((time.monotonic(), scheduler_stats.num_running_reqs))
        record(scheduler_stats=scheduler_stats, **rest)

    manager.record = noting
    try:
        yield steps
    finally:
        manager.record = record


async def plain(backend: VllmBackend, requests: list[Request]) -> list[str]:
    """Run the requests on ``AsyncLLM`` directly, without our code."""
    from vllm.inputs import tokens_input

    async def one(i: int, request: Request) -> str:
        parameters = backend.sampling_parameters(request)
        parameters.detokenize = True
        prompt = tokens_input(list(backend._prompt_ids(request.question)))
        text = ""
        async for output in backend._engine.generate(prompt, parameters, f"plain-{i}"):
            text += output.outputs[0].text
        return text

    return await asyncio.gather(*(one(i, r) for i, r in enumerate(requests)))


def requests_of(live: LiveEngine, question: Question, n: int, seed: int) -> list[Request]:
    """Return the requests that ``live.open(question, ..., seed)`` sends."""
    names = (question.dataset, question.question_id, "trace")
    seeds = [derive(seed, *names, i) % 2**31 for i in range(n)]
    return [
        Request(question, live.prompt, live.sampling, live.sampling.max_tokens, s) for s in seeds
    ]


class Benchmark:
    """Run all contenders on one engine."""

    def __init__(self, live: LiveEngine, backend: VllmBackend, n_traces: int, seed: int) -> None:
        self.live = live
        self.backend = backend
        self.n_traces = n_traces
        self.seed = seed
        checkpoint = live.sampling.max_tokens // KEPT
        self.pruning = DeepPrune(
            FirstTokens(checkpoint), max_clusters=n_traces, finish="representatives"
        )

    def run(self, contender: str, question: Question) -> dict[str, Any]:
        """Return seconds of one question and, except for ``plain``, tokens and replay checks."""
        began = time.monotonic()
        if contender == "plain":
            requests = requests_of(self.live, question, self.n_traces, self.seed)
            self.live.call(plain(self.backend, requests))
            return {"seconds": time.monotonic() - began}
        self.live.mode = "resubmit" if contender == "resubmit" else "stream"
        policy = Consensus() if contender == "consensus" else self.pruning
        clock = DecisionClock()
        with engine_steps(self.backend) as steps:
            session = self.live.open(question, self.live.model, self.n_traces, self.seed)
            outcome = self._decide(policy, session, clock)
        seconds = time.monotonic() - began
        row: dict[str, Any] = {"seconds": seconds, "tokens": outcome.usage.tokens}
        if contender == "stream":
            n_kept = self.n_traces - len(outcome.decisions)
            row["steps_to_free_seat"] = steps_until_free(steps, clock.at, n_kept)
        if contender != "resubmit":  # in resubmit mode the engine waits for the policy
            row["step_seconds"] = {
                n: step_seconds(steps, n) for n in (self.n_traces, self.n_traces // KEPT)
            }
        return row | self._replayed(policy, question, outcome, session.traces())

    def _decide(self, policy, session, clock=None) -> Outcome:
        rng = np.random.default_rng(self.seed)
        judge = ScriptedJudge(session, self.n_traces // KEPT)
        return run_question(policy, session, self.n_traces, judge, rng, clock)

    def _replayed(self, policy, question, outcome, traces: tuple[Trace, ...]) -> dict[str, Any]:
        """Run the same policy on the recording and compare."""
        engine = ReplayEngine(QuestionTraces(question, self.live.model, traces), shuffle=False)
        session = engine.open(self.n_traces, self.seed)
        again = self._decide(policy, session)
        return {
            "tokens_replayed": again.usage.tokens,
            "same_decisions": again.decisions == outcome.decisions,
            "same_vote": again.vote == outcome.vote,
        }


def steps_until_free(steps: list[tuple[float, int]], decided: float, n_kept: int) -> int | None:
    """Count engine steps since the decision until at most n_kept requests run; None if never."""
    since = [n_running for at, n_running in steps if at >= decided]
    return next((i for i, n in enumerate(since, 1) if n <= n_kept), None)


def step_seconds(steps: list[tuple[float, int]], n_running: int) -> list[float]:
    """Return the times of steps that began and ended with ``n_running`` requests."""
    return [
        at - began
        for (began, before), (at, after) in pairwise(steps)
        if before == after == n_running
    ]


def questions(n: int, seed: int) -> list[Question]:
    """Draw n sums that a small model sometimes gets right."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(2, 60, size=(n, 2)).tolist()
    return [
        Question("sums", f"{i}", f"What is {a} + {b}?", str(a + b))
        for i, (a, b) in enumerate(pairs)
    ]


def summary(
    rows: dict[str, list[dict[str, Any]]], n_traces: int, max_tokens: int
) -> dict[str, Any]:
    """Compute ratios and figures over all questions.

    Args:
        rows: For each contender one row per question.
        n_traces: Traces per question.
        max_tokens: Length of an unpruned trace.
    """
    n_tokens = n_traces * max_tokens

    def seconds(name: str) -> float:
        return sum(row["seconds"] for row in rows[name])

    def ratio(one: str, other: str) -> dict[str, float]:
        each = [a["seconds"] / b["seconds"] for a, b in zip(rows[one], rows[other], strict=True)]
        return {"of_sums": seconds(one) / seconds(other), "median": statistics.median(each)}

    def saving(name: str, key: str) -> float:
        return 1 - sum(row[key] for row in rows[name]) / (n_tokens * len(rows[name]))

    def mean_step(n_running: int) -> float:
        timed = rows["consensus"] + rows["stream"]
        seconds = [s for row in timed for s in row["step_seconds"][n_running]]
        return statistics.fmean(seconds) if seconds else float("nan")

    step_ms = {n: 1000 * mean_step(n) for n in (n_traces, n_traces // KEPT)}
    t_all, t_kept = step_ms.values()
    ours = [row for name in CONTENDERS[1:] for row in rows[name]]
    steps = [row["steps_to_free_seat"] for row in rows["stream"]]
    return {
        "seconds": {name: seconds(name) for name in CONTENDERS},
        "overhead": ratio("consensus", "plain"),
        "stream": ratio("stream", "consensus"),
        "resubmit": ratio("resubmit", "consensus"),
        "step_ms": step_ms,
        "stream_bound": (1 + (KEPT - 1) * t_kept / t_all) / KEPT,
        "saving": {name: saving(name, "tokens") for name in CONTENDERS[2:]},
        "saving_replayed": {name: saving(name, "tokens_replayed") for name in CONTENDERS[2:]},
        "steps_to_free_seat": steps,
        "median_steps": statistics.median(s if s is not None else float("inf") for s in steps),
        "same_decisions": sum(row["same_decisions"] for row in ours) / len(ours),
        "same_vote": sum(row["same_vote"] for row in ours) / len(ours),
    }


def report(found: dict[str, Any]) -> bool:
    """Print figures beside their targets; return whether all are met."""
    off = {n: abs(found["saving"][n] - found["saving_replayed"][n]) for n in found["saving"]}
    lines: list[tuple[str, str, bool | None]] = [
        ("consensus / plain AsyncLLM, wall-clock", "<= 1.03", found["overhead"]["of_sums"] <= 1.03),
        ("stream / consensus, wall-clock", "<= 0.60", found["stream"]["of_sums"] <= 0.6),
        ("  its lower bound, from step times", "", None),
        ("resubmit / consensus, wall-clock", "", None),
        *[(f"a step with {n} running traces, mean", "", None) for n in found["step_ms"]],
        ("stream: token saving", "", None),
        ("stream: difference to replay", "<= 2 %", off["stream"] <= 0.02),
        ("resubmit: token saving", "", None),
        ("resubmit: difference to replay", "<= 2 %", off["resubmit"] <= 0.02),
        ("decision to free seat, engine steps, median", "<= 2", found["median_steps"] <= 2),
        ("replay: same decisions", "100 %", found["same_decisions"] == 1),
        ("replay: same vote", "100 %", found["same_vote"] == 1),
    ]

    def both(name: str) -> str:
        return f"{found[name]['of_sums']:.3f} (median {found[name]['median']:.3f})"

    values = [
        both("overhead"),
        both("stream"),
        f"{found['stream_bound']:.3f}",
        both("resubmit"),
        *[f"{ms:.1f} ms" for ms in found["step_ms"].values()],
        f"{found['saving']['stream']:.1%}",
        f"{off['stream']:.2%}",
        f"{found['saving']['resubmit']:.1%}",
        f"{off['resubmit']:.2%}",
        f"{found['median_steps']:g}",
        f"{found['same_decisions']:.0%}",
        f"{found['same_vote']:.0%}",
    ]
    for (name, target, holds), value in zip(lines, values, strict=True):
        verdict = {None: "", True: "ok", False: "MISSED"}[holds]
        print(f"{name:<45} {value:<24} {target:<8} {verdict}")
    return all(holds is not False for _, _, holds in lines)


def main(arguments: argparse.Namespace) -> bool:
    """Run, print and write the results; return whether all targets are met."""
    n_traces = arguments.traces
    sampling = Sampling(
        arguments.max_tokens, temperature=0.8, top_p=1.0, logprobs=arguments.logprobs
    )
    backend = FixedLength(
        arguments.model,
        max_model_len=arguments.max_tokens + 256,
        enforce_eager=True,
        max_num_seqs=max(64, n_traces),
    )
    live = LiveEngine(backend, PromptFormat(), sampling)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    try:
        live.start()
        benchmark = Benchmark(live, backend, n_traces, arguments.seed)
        warm_up, *asked = questions(arguments.questions + 1, arguments.seed)
        for name in CONTENDERS:
            benchmark.run(name, warm_up)
        for i, question in enumerate(asked):
            for name in np.random.default_rng([arguments.seed, i]).permutation(CONTENDERS).tolist():
                rows[name].append(benchmark.run(name, question))
            said = ", ".join(f"{name} {rows[name][-1]['seconds']:.2f} s" for name in CONTENDERS)
            print(f"question {i + 1}: {said}", file=sys.stderr, flush=True)
    finally:
        live.close()
    found = summary(rows, n_traces, arguments.max_tokens)
    if arguments.json is not None:
        about = {
            **{k: v for k, v in vars(arguments).items() if k != "json"},
            "model": backend.model,
            "vllm": version("vllm"),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        written = {"about": about, "summary": found, "rows": rows}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return report(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--traces", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--logprobs", type=int, default=5, help="k of token confidences; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    sys.exit(0 if main(parser.parse_args()) else 1)
