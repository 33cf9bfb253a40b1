"""Make the plans of the commands that generate traces: `collect` and `prune`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from deepprune.config.build import REPLAY, generator_sizes, make_engine, run_plan
from deepprune.config.instantiation import inputs_of, instantiated
from deepprune.config.judges import choose_judge
from deepprune.config.plans import CollectPlan, JudgeChoice, PrunePlan
from deepprune.core.errors import InputError
from deepprune.core.files import without_paths
from deepprune.core.protocols import Need, Policy
from deepprune.core.types import Question
from deepprune.data.splits import question_hash
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.generation.live import LiveEngine
from deepprune.generation.questions import QuestionSource, RecordedQuestions
from deepprune.traces import open_traces

ORACLES = (
    "deepprune.judge.baselines.OracleJudge",
    "deepprune.judge.baselines.NoisyOracleJudge",
)


def collect(config: DictConfig) -> CollectPlan:
    """Make the plan of ``deepprune collect``."""
    nodes = ("questions", "engine", "prompt")
    parts = {name: OmegaConf.to_container(config[name], resolve=True) for name in nodes}
    parts |= {name: without_paths(parts[name]) for name in nodes[:2]}  # a prompt may begin with /
    return CollectPlan(
        run=run_plan(config, "collect"),
        questions=question_set(config),
        engines=_replicas(config),
        n=config.collect.n,
        concurrency=config.collect.concurrency,
        seed=config.seed,
        provenance={**parts, "seed": config.seed},
    )


def prune(config: DictConfig) -> PrunePlan:
    """Make the plan of ``deepprune prune``."""
    policy = _policy(config)
    is_replay = config.engine._target_ == REPLAY
    judge = choose_judge(config.judge) if Need.JUDGE in policy.needs else None
    if judge is not None and not is_replay and config.judge._target_ in ORACLES:
        raise InputError(
            "an oracle knows the final answers, which nobody does while traces are generated: take "
            "another judge=NAME, or engine=replay."
        )
    played = config.traces if is_replay else config.engine.get("traces")
    return PrunePlan(
        run=run_plan(config, "prune"),
        questions=_live_questions(config, played, is_replay),
        policy=policy,
        judge=judge,
        needs=_needs(config, policy, judge, is_replay),
        n_traces=config.prune.traces,
        judge_timeout_s=config.prune.judge_timeout_s,
        view=config.view,
        seed=config.seed,
        engine=None if is_replay else live_engine(config),
        recorded=None if played is None else open_traces(played),
        make_replay=make_engine(config) if is_replay else None,
        generator=_live_generator(config),
    )


def live_engine(config: DictConfig, base_url: str | None = None) -> LiveEngine:
    """Build the live engine; nothing is loaded or connected before it starts.

    Args:
        config: Of a command that generates.
        base_url: The server, where it is not the configured one.

    Raises:
        InputError: If the engine only replays, or a value is out of its range.
    """
    if config.engine._target_ == REPLAY:
        raise InputError("engine=replay generates nothing: take engine=vllm, openai or scripted.")
    node = OmegaConf.to_container(config.engine, resolve=True)
    assert isinstance(node, dict)
    if base_url is not None:
        if "base_url" not in node:
            raise InputError("only engine=openai has replicas, one for each base_url.")
        node["base_url"] = base_url
    with inputs_of("engine"):
        return LiveEngine(
            instantiated(node),
            instantiated(config.prompt),
            instantiated(config.sampling),
            **config.live,
        )


def _policy(config: DictConfig) -> Policy:
    """Return the policy of a live run.

    Raises:
        InputError: If there is not exactly one, or a value is out of range.
    """
    names = [str(name) for name in config.pruning]
    if len(names) != 1:
        raise InputError(
            f"a live run has exactly one policy, got {', '.join(names) or 'none'}: choose one with "
            "pruning=NAME, and compare policies with deepprune evaluate."
        )
    with inputs_of(f"pruning.{names[0]}"):
        policy: Any = instantiated(config.pruning[names[0]])
    rule = getattr(policy, "prefix", None)
    if rule is not None and rule.kind == "fraction":
        raise InputError(
            "prefix=fraction needs the finished length, which no running policy has: choose "
            "another prefix=NAME."
        )
    if config.threshold is not None:
        if not hasattr(policy, "threshold"):
            raise InputError(f"{policy.name} has no threshold: leave threshold out.")
        policy = replace(policy, threshold=config.threshold)
    chosen: Policy = policy
    return chosen


def _needs(
    config: DictConfig, policy: Policy, judge: JudgeChoice | None, is_replay: bool
) -> frozenset[Need]:
    """Return what the policy, and the judge that it asks, read of the traces.

    Raises:
        InputError: If the traces will not have it: confidences or forced answers are switched off.
    """
    of_judge = frozenset[Need]() if judge is None else judge.needs
    if not is_replay:
        if Need.CONFIDENCE in policy.needs and config.sampling.logprobs == 0:
            raise InputError(
                f"{policy.name} needs token confidences, and sampling.logprobs=0 asks for none: "
                "give the k of the top-k log-probabilities, e.g. sampling.logprobs=5."
            )
        if Need.FORCED_ANSWERS in of_judge and config.live.force_every is None:
            raise InputError(
                "this judge reads forced answers, and live.force_every=null forces none: give the "
                "tokens between two, e.g. live.force_every=500."
            )
    return policy.needs - {Need.JUDGE} | of_judge


def _live_questions(config: DictConfig, played: str | None, is_replay: bool) -> list[Question]:
    """Return the questions of ``deepprune prune``: the given text, a set, or all that a replay has.

    Where the traces are recorded, the text or the id of a recorded question names it.

    Raises:
        InputError: If there is none, both a text and a set are given, or a recording lacks it.
    """
    text, is_set = config.question, config.questions is not None
    if text is not None and is_set:
        raise InputError("give a question or questions=NAME, not both.")
    if text is not None and not text.strip():
        raise InputError("the question is empty: write it in quotes behind deepprune prune.")
    if is_set:
        return question_set(config)
    if text is None and is_replay:
        return RecordedQuestions(traces=config.traces).load()
    if text is None:
        raise InputError(
            'prune needs a question: deepprune prune "What is 12*13?" (- for standard input, '
            "@FILE for a file), or a set with questions=NAME."
        )
    if played is None:
        return [Question("question", question_hash(text)[:12], text)]
    recorded = RecordedQuestions(traces=played).load()
    wanted = question_hash(text)
    for question in recorded:
        if question.question_id == text.strip() or question_hash(question.text) == wanted:
            return [question]
    raise InputError(
        f"{played} has no traces of this question; it has {len(recorded)} questions, e.g. "
        f"{recorded[0].question_id} ({recorded[0].text.strip()[:60]!r}): give the text or the id "
        "of one, or a model, as in engine=vllm engine.model=Qwen/Qwen3-8B."
    )


def _live_generator(config: DictConfig) -> Callable[[str], GeneratorSize | None]:
    """Return sizes by model, or by what stands behind its last ``/``.

    Nothing net is claimed of a generator whose size nobody has given: ``None``.
    """
    size = generator_sizes(config)

    def found(model: str) -> GeneratorSize | None:
        names = (model, model.rpartition("/")[2])
        known = (n for n in names if config.generator is not None or n in config.generators)
        return next(map(size, known), None)

    return found


def question_set(config: DictConfig) -> list[Question]:
    """Return the questions of a command that generates.

    Raises:
        InputError: If they cannot be had, or a value is out of its range; if they are multiple
            choice and the prompt reads no letters.
    """
    columns, style = config.questions.get("columns"), config.prompt.answer_style
    if columns is not None and columns.wrong and style != "choice":
        raise InputError(
            "the answers to these questions are the letters of choices, and "
            f"prompt.answer_style {style!r} reads no letters: take prompt=choice, or "
            "prompt=reasoning_choice where the model thinks."
        )
    with inputs_of("questions"):
        source: QuestionSource = instantiated(config.questions)
    return source.load()


def _replicas(config: DictConfig) -> dict[str, LiveEngine]:
    """Return the engines of a collection by name.

    Raises:
        InputError: If a value is out of its range, or the engine has no replicas.
    """
    urls = config.collect.replicas
    if urls is None:
        return {"the engine": live_engine(config)}
    if not urls or len(set(urls)) < len(urls):
        raise InputError(f"collect.replicas must be servers, each once, got {list(urls)}.")
    return {url: live_engine(config, url) for url in urls}
