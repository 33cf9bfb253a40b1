"""The evaluator on hand-made traces: sums, intervals, resuming, failures."""

import json

import numpy as np
import pytest
from builders import group

from deepprune.data.prefixes import FirstTokens
from deepprune.engines.replay import ReplayEngine
from deepprune.errors import InputError
from deepprune.evaluation.callback import EvaluatorCallback
from deepprune.evaluation.evaluator import Evaluator
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.metrics import too_few_questions
from deepprune.evaluation.statistics import Estimate, QuestionBootstrap
from deepprune.evaluation.sweep import consensus_sizes, grid
from deepprune.judge.base import Judge, JudgeCost, JudgeProvenance
from deepprune.judge.score_cache import ScoreCache
from deepprune.pruning.policies.deepprune import DeepPrune

SIZES = {"tiny": GeneratorSize(params=100, layers=2, hidden=4)}


class FirstWordJudge(Judge):
    """A judge with a cost: a fixed function of the two texts, 7 tokens and 50 FLOPs a pair."""

    def __init__(self):
        self.n_scored = 0

    @property
    def provenance(self):
        return JudgeProvenance("first_word", "first-word-1")

    def score(self, pairs):
        self.n_scored += len(pairs)
        return np.array([(len(p.first.text) * 7 + len(p.second.text) * 3) % 11 / 10 for p in pairs])

    def cost(self, pairs):
        return JudgeCost(len(pairs), 7 * len(pairs), 50.0 * len(pairs))


class OracleLike(FirstWordJudge):
    def score(self, pairs):
        return np.array([float(p.label or 0) for p in pairs])


def questions(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return [
        group(
            rng.choice(["a", "a", "b", "c", None], size=8).tolist(),
            rng.integers(5, 40, size=8).tolist(),
            name=f"q{i}",
        )
        for i in range(n)
    ]


def points(thresholds=(0.3, 0.6)):
    return grid(
        [DeepPrune(FirstTokens(4), max_finishers=3)],
        n_traces=8,
        thresholds=thresholds,
        prefixes=[FirstTokens(4), FirstTokens(8)],
    )


def evaluate(folder, judge=None, groups=None, cache=None, callbacks=(), **changes):
    groups = groups or questions()
    settings = {"n_traces": 8, "resamples": 3, "seed": 0, "generators": SIZES} | changes
    chosen = settings.pop("points", None) or points()
    evaluator = Evaluator(chosen, folder=folder, cache=cache, callbacks=callbacks, **settings)
    return evaluator.run(groups, ReplayEngine(groups), judge or FirstWordJudge())


def test_the_grid_is_every_policy_at_its_axes_and_always_the_consensus_curve():
    chosen = points()
    assert [p.axes["k"] for p in chosen[:6]] == consensus_sizes(8) == [1, 2, 3, 4, 6, 8]
    assert [(p.axes["prefix_len"], p.axes["threshold"]) for p in chosen[6:]] == [
        (4, 0.3),
        (4, 0.6),
        (8, 0.3),
        (8, 0.6),
    ]


def test_the_ledger_adds_up_to_what_was_recorded(tmp_path):
    """cons@N generates every token of every question; its saving is exactly 0."""
    groups = questions()
    rows = evaluate(tmp_path, groups=groups).rows
    full = next(r for r in rows if r["policy"] == "consensus" and r["k"] == 8)
    recorded = sum(t.n_tokens for g in groups for t in g.traces) / len(groups)
    assert full["tokens"] == pytest.approx(recorded)
    assert tuple(full["token_saving"]) == (0.0, 0.0, 0.0)
    for row in rows:
        kinds = ("tokens_finished", "tokens_pruned", "tokens_probes")
        assert sum(row[k] for k in kinds) == pytest.approx(row["tokens"])


def test_net_saving_pays_for_the_judge(tmp_path):
    """net = gross in FLOPs - 50 FLOPs a call, over the FLOPs of cons@N."""
    rows = evaluate(tmp_path).rows
    full = next(r for r in rows if r["policy"] == "consensus" and r["k"] == 8)
    for row in rows:
        if row["policy"] == "deepprune":
            assert row["judge_calls"] > 0
            assert row["judge_flops"] == pytest.approx(50 * row["judge_calls"])
            saved = full["generator_flops"] - row["generator_flops"] - row["judge_flops"]
            assert row["net_saving"].value == pytest.approx(saved / full["generator_flops"])


def test_a_pair_is_scored_once_for_all_thresholds_and_runs(tmp_path):
    """At most 8 * 7 ordered pairs a question and prefix length, whatever the grid; then none."""
    judge = FirstWordJudge()
    cache = ScoreCache(tmp_path / "scores.sqlite")
    many = points(thresholds=[i / 20 for i in range(20)])
    evaluate(tmp_path / "a", judge, cache=cache, points=many)
    assert 0 < judge.n_scored <= 6 * 2 * 56
    scored = judge.n_scored
    evaluate(tmp_path / "b", judge, cache=cache, points=many)
    assert judge.n_scored == scored
    cache.close()


def test_same_seed_same_bytes_and_resuming_changes_nothing(tmp_path):
    """A sweep cut off after any question, in mid-line too, ends in the same results.jsonl."""
    whole = evaluate(tmp_path / "whole").results_path.read_bytes()
    assert evaluate(tmp_path / "again").results_path.read_bytes() == whole
    assert evaluate(tmp_path / "other", seed=1).results_path.read_bytes() != whole
    lines = (tmp_path / "whole" / "outcomes.jsonl").read_bytes().splitlines(True)
    judge = FirstWordJudge()
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "outcomes.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:100])
    assert evaluate(folder, judge).results_path.read_bytes() == whole
    assert judge.n_scored <= 2 * 56  # one question of six


def test_an_oracle_with_all_finishers_is_as_accurate_as_consensus(tmp_path):
    chosen = grid(
        [DeepPrune(FirstTokens(4), max_finishers=99, singleton_finishers=99)],
        n_traces=8, thresholds=[0.5], prefixes=[FirstTokens(4)],
    )  # fmt: skip
    row = evaluate(tmp_path, OracleLike(), points=chosen).rows[-1]
    assert tuple(row["accuracy_vs_cons_n"]) == (0.0, 0.0, 0.0)
    assert row["token_saving"].value > 0


def test_matched_consensus_is_interpolated_in_tokens(tmp_path):
    """A point's k and accuracy of equal tokens lie on the lines between the curve's points."""
    rows = evaluate(tmp_path).rows
    curve = [r for r in rows if r["policy"] == "consensus"]
    tokens = [r["tokens"] for r in curve]
    for row in rows[len(curve) :]:
        assert tokens[0] < row["tokens"] < tokens[-1]
        k = np.interp(row["tokens"], tokens, [r["k"] for r in curve])
        assert row["matched_k"] == pytest.approx(k)
        matched = np.interp(row["tokens"], tokens, [r["accuracy"].value for r in curve])
        gain = row["accuracy"].value - matched
        assert row["accuracy_vs_matched_cons"].value == pytest.approx(gain)


def test_a_judge_that_fails_fails_its_points_and_not_the_sweep(tmp_path):
    class Broken(FirstWordJudge):
        def score(self, pairs):
            return np.full(len(pairs), np.nan)

    rows = evaluate(tmp_path, Broken()).rows
    assert {r["status"] for r in rows if r["policy"] == "consensus"} == {"ok"}
    assert {r["status"] for r in rows if r["policy"] == "deepprune"} == {"failed"}
    assert "a score lies in [0, 1]" in rows[-1]["reason"]
    written = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert written[-1]["status"] == "failed"
    assert {r["status"] for r in evaluate(tmp_path).rows} == {"ok"}  # done again, and mended


def test_callbacks_see_everything_in_order(tmp_path):
    class Log(EvaluatorCallback):
        def __init__(self):
            self.seen = []
            self.stopped = 0

        def on_sweep_start(self, plan):
            self.seen.append(("start", len(plan.points)))

        def on_question_start(self, question):
            self.seen.append("question")

        def on_decision(self, point, decision):
            assert point.policy.name == "deepprune"
            self.stopped += 1

        def on_point_end(self, row):
            self.seen.append(row["policy"])

        def on_sweep_end(self, result):
            self.seen.append("end")

    log = Log()
    evaluate(tmp_path, callbacks=[log])
    n = 6
    rows = ["consensus"] * 6 + ["deepprune"] * 4
    assert log.seen == [("start", 10), *["question"] * n, *rows, "end"]
    assert log.stopped > 0


def test_questions_without_gold_or_with_too_few_traces_are_refused(tmp_path):
    with pytest.raises(InputError, match="has none"):
        evaluate(tmp_path, groups=[group(["a"] * 8, gold=None)])
    with pytest.raises(InputError, match=r"has 3 traces, fewer than sweep.traces=8"):
        evaluate(tmp_path, groups=[group(["a"] * 3)])


def test_bootstrap_of_a_constant_has_no_width_and_pairs_its_differences():
    bootstrap = QuestionBootstrap([f"q{i}" for i in range(40)], seed=0)
    values = np.random.default_rng(0).random(40)
    assert tuple(bootstrap.mean(np.ones(40))) == (1.0, 1.0, 1.0)
    shifted = bootstrap.mean((values + 0.1) - values)
    assert shifted.high - shifted.low < 1e-12
    spread = bootstrap.mean(values)
    standard_error = values.std(ddof=1) / np.sqrt(40)
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_too_few_questions_are_said_to_be_too_few():
    row = {"policy": "deepprune", "n_questions": 300}
    assert too_few_questions([row | {"accuracy_vs_cons_n": Estimate(0.0, -0.02, 0.02)}]) is None
    said = too_few_questions([row | {"accuracy_vs_cons_n": Estimate(0.0, -0.06, 0.06)}])
    assert "about 1200 would be needed" in said
    same = row | {"n_questions": 20, "accuracy_vs_cons_n": Estimate(0.0, 0.0, 0.0)}
    assert "20 questions are too few" in too_few_questions([same])  # 3 / 20 > 0.03
