"""All grid points on one question: the unit of work of one process."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from deepprune.core.protocols import IntArray
from deepprune.core.seeding import derive, generator
from deepprune.core.types import QuestionRef, QuestionTraces, answers_of
from deepprune.evaluation.batch_replay import replay_batch, replay_sampling
from deepprune.evaluation.grid import Point
from deepprune.evaluation.ledger import GeneratorSize, Ledger, generator_size
from deepprune.evaluation.outcomes import FIELDS, QuestionKey, QuestionOutcomes
from deepprune.evaluation.scores import QuestionScores, RunEvidence
from deepprune.judge.base import Judge
from deepprune.judge.score_cache import ScoreCache
from deepprune.pruning.at_once import AtOnce
from deepprune.pruning.controller import Outcome, run_question
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import ReplayEngine

SHOWN = 600
"""Characters at either end of a text that a report shows."""

logger = logging.getLogger(__name__)

LoadTraces = Callable[[QuestionRef], QuestionTraces]
MakeEngine = Callable[[QuestionTraces, int], ReplayEngine]
"""Makes an engine of a question's traces and the number of tokens of its prompt."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question to evaluate.

    Attributes:
        ref: The question.
        tokens_prompt: Tokens of its text.
        skip: Numbers of the points to skip.
    """

    ref: QuestionRef
    tokens_prompt: int
    skip: frozenset[int] = frozenset()


@dataclass
class QuestionRunner:
    """Runs every point on a question, for ``resamples`` orders of its traces.

    It can be pickled, for other processes and machines. A question's scores are computed once for
    all points and dropped with it, so memory does not grow with the number of questions.

    Attributes:
        points: The grid.
        n_traces: The largest N.
        resamples: Orders of the traces (and choices of N, where more are recorded).
        seed: Decides the orders and the policies' draws.
        generators: Size of every generator by model name.
        load: Reads the traces of a question.
        make_engine: Makes an engine that replays them.
        judges: The judges by their names in the points.
        mean_lengths: Expected tokens of a trace of each question, see `Evidence.mean_length`.
        cache: Scores on disk, kept between runs.
        usd_judge: Price of a million judge tokens.
        is_watched: Whether checkpoints and decisions are reported.
    """

    points: Sequence[Point]
    n_traces: int
    resamples: int
    seed: int
    generators: Mapping[str, GeneratorSize]
    load: LoadTraces
    make_engine: MakeEngine
    judges: Mapping[str, Judge]
    mean_lengths: Mapping[QuestionKey, float] = field(default_factory=dict)
    cache: ScoreCache | None = None
    usd_judge: float | None = None
    is_watched: bool = False

    @property
    def has_model(self) -> bool:
        """Whether a judge is a neural network, which uses the cores or the GPU itself."""
        return any(judge.is_model for judge in self.judges.values())

    def __call__(self, task: Task) -> QuestionOutcomes:
        """Evaluate one question; a point that fails is recorded with its reason."""
        group = self.load(task.ref)
        question = _Question(self, group, task)
        is_whole = not any(trace.finish_reason.is_open for trace in group.traces)
        batches: defaultdict[Any, list[int]] = defaultdict(list)
        for number, point in enumerate(self.points):
            if number in task.skip:
                continue
            policy = point.policy
            work = question.run
            if is_whole and not self.is_watched:
                if isinstance(policy, DeepPrune) and policy.decides_once:
                    batches[_family(point)].append(number)
                    continue
                if isinstance(policy, AtOnce) and not policy.needs:
                    work = question.run_at_once
            question.guarded([number], work)
        for numbers in batches.values():
            question.guarded(numbers, question.run_batch)
        return question.timed()


def question_records(
    runner: QuestionRunner, tasks: Sequence[Task], numbers: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return some questions with their traces, and what became of them, see `_Question.shown`."""
    return [_Question(runner, runner.load(task.ref), task).shown(numbers) for task in tasks]


def cut_text(text: str) -> str:
    """Return the first and the last 600 characters of a longer text; a store has it whole."""
    if len(text) <= 2 * SHOWN:
        return text
    return f"{text[:SHOWN]} [... {len(text) - 2 * SHOWN:,} characters ...] {text[-SHOWN:]}"


def _family(point: Point) -> tuple[Any, ...]:
    """Return the settings that points of one batch share: their clusterings are the same."""
    policy = point.policy
    assert isinstance(policy, DeepPrune)
    sizes = policy.max_clusters, policy.max_members
    return policy.prefix, policy.clustering, *sizes, point.judge, point.n_traces


class _Question:
    """One question while it is evaluated."""

    def __init__(self, runner: QuestionRunner, group: QuestionTraces, task: Task) -> None:
        self._runner, self._group = runner, group
        self._engine = runner.make_engine(group, task.tokens_prompt)
        answers = answers_of(group.traces)
        self._correct = {one.answer_class for one in answers if one.is_correct}
        self._spelled = {one.answer_class: one.answer for one in reversed(answers)}
        size = generator_size(group.model, runner.generators)
        self._ledger = Ledger(size, task.tokens_prompt, runner.usd_judge)
        self._scores = {
            name: QuestionScores(judge, runner.cache) for name, judge in runner.judges.items()
        }
        shape = len(runner.points), runner.resamples
        fields = {name: np.zeros(shape, dtype) for name, dtype in FIELDS.items()}
        self.outcomes = QuestionOutcomes(fields, task.tokens_prompt, skipped=task.skip)

    def guarded(self, numbers: Sequence[int], work: Callable[[Sequence[int]], None]) -> None:
        """Evaluate points; an error fails them, and the sweep exits non-zero at its end."""
        try:
            work(numbers)
        except AssertionError:  # ours, not the policy's: nothing that follows can be trusted
            raise
        except Exception as error:
            names = sorted({self._runner.points[number].policy.name for number in numbers})
            logger.warning("%s failed on %s", ", ".join(names), self._group.key, exc_info=True)
            for number in numbers:
                self.outcomes.failures[number] = f"{type(error).__name__}: {error}"

    def run(self, numbers: Sequence[int]) -> None:
        """Evaluate one point, run by run."""
        (number,) = numbers
        for resample in range(self._runner.resamples):
            outcome, evidence = self.replay(number, resample)
            facts: dict[str, Any] = self._ledger.draw(outcome, evidence.bill)
            facts["is_correct"] = outcome.vote.answer_class in self._correct
            facts["any_correct"] = not self._correct.isdisjoint(outcome.vote.weights)
            for name, value in facts.items():
                self.outcomes.fields[name][number, resample] = value

    def replay(self, number: int, resample: int) -> tuple[Outcome, RunEvidence]:
        """Replay one point in one order of the traces."""
        runner, point = self._runner, self._runner.points[number]
        scores = None if point.judge is None else self._scores[point.judge]

        def tell(hook: str, *facts: object) -> None:
            if runner.is_watched:
                self.outcomes.events.append((number, hook, facts))

        session = self._engine.open(runner.n_traces, derive(runner.seed, resample))
        evidence = RunEvidence(scores, session, runner.mean_lengths.get(self._group.key))
        rng = self._rng(resample)
        return run_question(point.policy, session, point.n_traces, evidence, rng, tell), evidence

    def shown(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        """Return the question with its traces, and what became of them at some points.

        In the first order of the traces, by whose start they are listed. Texts are cut.

        Args:
            numbers: Number of each point, by its label.
        """
        runner, question = self._runner, self._group.question
        order = self._engine.order(runner.n_traces, derive(runner.seed, 0))
        traces = [self._group.traces[i] for i in order.tolist()]
        return {
            "dataset": question.dataset,
            "question": question.question_id,
            "text": cut_text(question.text),
            "gold": question.gold,
            "correct": sorted(self._correct),
            "traces": [
                {
                    "text": cut_text(trace.text),
                    "tokens": trace.n_tokens,
                    "answer": trace.answer,
                    "class": trace.answer_class,
                }
                for trace in traces
            ],
            "runs": [
                {"point": label, **self._course(self.replay(number, 0)[0])}
                for label, number in numbers.items()
            ],
        }

    def _course(self, outcome: Outcome) -> dict[str, Any]:
        """Return vote, tokens of each started trace, and which was stopped, as JSON."""
        vote = outcome.vote.answer_class
        return {
            "vote": vote,
            "answer": self._spelled.get(vote),
            "is_correct": vote in self._correct,
            "tokens": outcome.final.n_tokens.tolist(),
            "voters": list(outcome.vote.voters),
            "stopped": [
                {**asdict(decision), "reason": decision.reason.value}
                for decision in outcome.decisions
                if outcome.final.is_stopped[decision.trace]
            ],
        }

    def run_at_once(self, numbers: Sequence[int]) -> None:
        """Evaluate one point of a policy that reads final answers alone, all runs at once."""
        (number,) = numbers
        point, mean_lengths = self._runner.points[number], self._runner.mean_lengths
        assert isinstance(point.policy, AtOnce)
        found = replay_sampling(
            point.policy,
            self._engine,
            self._orders(point.n_traces),
            self._ledger,
            np.array(sorted(self._correct), dtype=np.int64),
            mean_lengths.get(self._group.key),
        )
        for name, values in found.items():
            self.outcomes.fields[name][number] = values

    def run_batch(self, numbers: Sequence[int]) -> None:
        """Evaluate points of one family, all runs at once."""
        runner, engine = self._runner, self._engine
        points = [runner.points[number] for number in numbers]
        n_traces, scores = points[0].n_traces, self._scores[str(points[0].judge)]
        orders = self._orders(n_traces)
        draws = np.stack([self._rng(r).random(n_traces) for r in range(runner.resamples)])
        policies = [point.policy for point in points if isinstance(point.policy, DeepPrune)]
        correct = np.array(sorted(self._correct), dtype=np.int64)
        parts: defaultdict[bytes, list[int]] = defaultdict(list)  # runs with the same traces
        for run, order in enumerate(orders):
            peers = np.sort(order).tobytes() if scores.judge.reads_peers else b""
            parts[peers].append(run)
        for runs in parts.values():
            found = replay_batch(
                policies, engine, orders[runs], draws[runs], scores, self._ledger, correct
            )
            for name, values in found.items():
                self.outcomes.fields[name][np.ix_(numbers, runs)] = values

    def timed(self) -> QuestionOutcomes:
        """Return the outcomes with the latency in mean trace lengths, and the judge's time."""
        fields = self.outcomes.fields
        mean_length = self._runner.mean_lengths.get(self._group.key, np.nan)
        fields["latency"] = fields["tokens_sequential"] / mean_length
        fields["judge_seconds"] = fields["judge_flops"] / self._engine.steps.flops_per_s
        return self.outcomes

    def _orders(self, n_traces: int) -> IntArray:
        """Return the traces of all runs in the order of their start, shape ``(R, n_traces)``."""
        seeds = [derive(self._runner.seed, r) for r in range(self._runner.resamples)]
        orders = [self._engine.order(self._runner.n_traces, seed) for seed in seeds]
        return np.stack([order[:n_traces] for order in orders])

    def _rng(self, resample: int) -> np.random.Generator:
        return generator(self._runner.seed, *self._group.key, resample, "policy")
