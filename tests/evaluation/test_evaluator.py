"""The evaluator on hand-made traces: the grid, bills, resuming, failures, callbacks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import InOrder, group, with_forced_answers
from sweeps import RIVALS, SIZES, PricedJudge, evaluate, flat, points, questions, refs, written

from deepprune.core.errors import InputError
from deepprune.core.step_times import StepTimes
from deepprune.data.prefixes import FirstTokens
from deepprune.evaluation.grid import Point, consensus_sizes, grid
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.outcomes import OutcomeStore
from deepprune.evaluation.runner import QuestionRunner, Task
from deepprune.evaluation.selection import with_needs_met
from deepprune.evaluation.watcher import Watcher
from deepprune.judge.base import Prices
from deepprune.judge.baselines import CoinJudge, OracleJudge
from deepprune.judge.score_cache import ScoreCache
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepconf import DeepConf
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.policies.early_exit import EarlyExit
from deepprune.pruning.policies.esc import ESC


def cons_n(rows, n=8):
    return next(r for r in rows if r["policy"] == "consensus" and r["k"] == n)


def test_the_grid_is_every_policy_at_its_axes_and_always_the_consensus_curve():
    chosen = points()
    assert [p.axes["k"] for p in chosen[:8]] == consensus_sizes(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [(p.axes["prefix_len"], p.axes["threshold"]) for p in chosen[8:]] == [
        (4, 0.3),
        (4, 0.6),
        (8, 0.3),
        (8, 0.6),
    ]


def test_n_and_any_field_can_be_an_axis():
    """The last axis is the fastest, N last of all; cons@N of every N is on the curve."""
    chosen = grid(
        {"adaptive": AdaptiveConsistency(), "esc": ESC(2)}, n_traces=8, ns=[8, 5],
        axes={"adaptive": {"stop_confidence": [0.9, 0.95], "wave": [1, 2]}},
    )  # fmt: skip
    assert [p.policy.k for p in chosen[:8]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [(p.policy.stop_confidence, p.policy.wave, p.n_traces) for p in chosen[8:16]] == [
        (c, w, n) for c in (0.9, 0.95) for w in (1, 2) for n in (5, 8)
    ]
    assert [(p.policy.window, p.n_traces) for p in chosen[16:]] == [(2, 5), (2, 8)]
    assert len({p.key for p in chosen}) == len(chosen)


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"axes": {"mars": {"gamma": [1]}}}, "mars is no policy of this sweep, which has esc"),
        ({"axes": {"esc": {"wave": [1]}}}, r"esc.wave is no field of esc, which has cap, window"),
        ({"axes": {"esc": {"window": [1]}}}, "esc: window must be >= 2, got 1"),
        ({"ns": [1, 4]}, r"between 2 and the 8 traces a question, got \[1, 4\]"),
        ({"ns": [9]}, r"between 2 and the 8 traces a question, got \[9\]"),
    ],
)
def test_an_impossible_axis_is_named(axes, said):
    with pytest.raises(InputError, match=said):
        grid({"esc": ESC(5)}, n_traces=8, **axes)


def test_the_ledger_adds_up_to_what_was_recorded(tmp_path):
    """cons@N generates every token of every question; its saving is exactly 0."""
    groups = questions()
    rows = flat(evaluate(tmp_path, groups, chosen=points(*RIVALS)))
    full = cons_n(rows)
    recorded = sum(t.n_tokens for g in groups for t in g.traces) / len(groups)
    assert full["tokens"] == pytest.approx(recorded)
    assert tuple(full["token_saving"]) == (0.0, 0.0, 0.0)
    for row in rows:
        kinds = ("tokens_finished", "tokens_pruned", "tokens_forced")
        assert sum(row[k] for k in kinds) == pytest.approx(row["tokens"])


def test_net_saving_pays_for_the_judge(tmp_path):
    """net = gross in FLOPs - 50 FLOPs a call, over the FLOPs of cons@N."""
    rows = flat(evaluate(tmp_path))
    full = cons_n(rows)
    for row in rows[8:]:
        assert row["judge_calls"] > 0
        assert row["judge_tokens"] == pytest.approx(7 * row["judge_calls"])
        assert row["judge_flops"] == pytest.approx(50 * row["judge_calls"])
        saved = full["generator_flops"] - row["generator_flops"] - row["judge_flops"]
        assert row["net_saving"].value == pytest.approx(saved / full["generator_flops"])


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_bill_by_hand(is_watched):
    """Answers a a b, lengths 10 12 8, prefix 4; a judge that is right, 7 tokens a pair and 2 + 1 a
    prefix of 4; the prompt has 5 tokens. Prices a million: prompt 1, generated 10, judge 100.

    All at once: 1 joins 0, 2 does not: 0 and 1 finish, 10 + 12, 2 stops at 4: 26 tokens, 12 of them
    one after the other. Pairs 01, 02, 12: 21 tokens, and 3 prefixes: 9 more.
    In waves of two: 0 and 1, one pair; then 2 on its own, to its end: 30 tokens, 12 + 8 in a row,
    2 at once. 7 + 2 * 3 judge tokens.
    cons@3: 30 tokens, 12 in a row, 3 at once, no judge.
    FLOPs of a token: 2 * 100, and 4 * 2 * 4 for each token that it sees; of a pair: 50.
    A step takes max(2, n) s and .1 s for each token that is seen; the prompt, a step of 5, 5 s.
    A trace has 20 tokens elsewhere; the judge computes 100 FLOPs a second.
    """

    class Sighted(PricedJudge):
        def score(self, pairs):
            return OracleJudge().score(pairs)

        def prefix_prices(self, prefixes):
            tokens = np.array([2.0 + p.n_tokens / 4 for p in prefixes])
            return Prices(tokens, 0 * tokens)

    traces = group(list("aab"), [10, 12, 8])
    once = DeepPrune(FirstTokens(4))
    chosen = [
        Point(once, 3, "right"),
        Point(replace(once, wave=2), 3, "right"),
        Point(Consensus(3), 3),
    ]
    size = replace(SIZES["tiny"], usd_prompt=1.0, usd_generated=10.0)
    runner = QuestionRunner(
        chosen, n_traces=3, resamples=1, seed=0, generators={"tiny": size}, usd_judge=100.0,
        load=lambda ref: traces, make_engine=lambda *g: InOrder(*g, StepTimes(2, 1, 0.1, 100)),
        judges={"right": Sighted()}, is_watched=is_watched, mean_lengths={traces.key: 20.0},
    )  # fmt: skip
    done = runner(Task(refs([traces])[0], tokens_prompt=5))
    assert not done.failures
    facts = {name: values[:, 0].tolist() for name, values in done.fields.items()}
    assert facts["tokens_finished"] == [22, 30, 30]
    assert facts["tokens_pruned"] == [4, 0, 0]
    assert facts["tokens_sequential"] == [12, 20, 12]
    assert facts["peak_traces"] == [3, 2, 3]
    assert facts["latency"] == pytest.approx([12 / 20, 20 / 20, 12 / 20])
    assert facts["judge_calls"] == [3, 1, 0]
    assert facts["judge_tokens"] == [30, 13, 0]
    assert facts["judge_flops"] == [150, 50, 0]
    assert facts["judge_seconds"] == [1.5, 0.5, 0]
    prompt, seen = 200 * 5 + 32 * 15, [sum(range(6, 6 + n)) for n in (10, 12, 8, 4)]
    each = [sum(seen[i] for i in some) for some in ((0, 1, 3), (0, 1, 2), (0, 1, 2))]
    tokens = [26, 30, 30]
    assert facts["generator_flops"] == [
        200 * n + 32 * pairs + prompt for n, pairs in zip(tokens, each, strict=True)
    ]
    steps = [4 * 3 + 6 * 2 + 2 * 2, 20 * 2, 8 * 3 + 2 * 2 + 2 * 2]
    assert facts["engine_seconds"] == pytest.approx(
        [5 + s + 0.1 * pairs for s, pairs in zip(steps, each, strict=True)]
    )
    millionths = [5 + 260 + 3000, 5 + 300 + 1300, 5 + 300]
    assert facts["cost"] == pytest.approx([m / 1e6 for m in millionths])


def test_an_unknown_price_is_no_cost(tmp_path):
    """The judge's price is needed where it reads, the generator's everywhere."""
    priced = {"tiny": GeneratorSize(100, 2, 4, usd_prompt=1.0, usd_generated=1.0)}
    rows = flat(evaluate(tmp_path / "a", generators=priced))
    assert [r["cost"] is None for r in rows] == [False] * 8 + [True] * 4
    assert {r["cost"] for r in flat(evaluate(tmp_path / "b", usd_judge=1.0))} == {None}


def test_a_pair_is_scored_once_for_all_thresholds_and_runs(tmp_path):
    """At most 8 * 7 ordered pairs a question and prefix length, whatever the grid; then none.

    Scores of a model are kept on disk; those of any other judge are made again.
    """

    class Model(PricedJudge):
        is_model = True

    judge = Model()
    many = points(thresholds=[i / 20 for i in range(20)])
    with ScoreCache(tmp_path / "scores.sqlite") as cache:
        evaluate(tmp_path / "a", judge=judge, cache=cache, chosen=many)
        assert 0 < judge.n_scored <= 6 * 2 * 56
        scored = judge.n_scored
        assert len(cache) == scored
        evaluate(tmp_path / "b", judge=judge, cache=cache, chosen=many)
        assert judge.n_scored == scored
        evaluate(tmp_path / "c", judge=PricedJudge(), cache=cache, chosen=many)
        assert len(cache) == scored
    a, b, c = ((tmp_path / d / "results.jsonl").read_bytes() for d in "abc")
    assert a == b == c


def test_same_seed_same_bytes_and_resuming_changes_nothing(tmp_path):
    """What is missing is done again, and a file that is not whole counts as missing."""
    whole = written(tmp_path / "whole")
    assert written(tmp_path / "again") == whole
    assert written(tmp_path / "other", seed=1) != whole
    files = sorted((tmp_path / "whole" / "outcomes").iterdir())
    assert len(files) == 6
    contents = [f.read_bytes() for f in files]
    files[0].unlink()
    files[1].write_bytes(contents[1][: len(contents[1]) // 2])
    files[2].write_bytes(b"")
    files[3].write_bytes(b"no archive, but long enough to be looked at" * 40)
    (files[0].parent / f".{files[0].name}.tmp").write_bytes(contents[0][:100])
    assert not any(
        OutcomeStore(files[0].parent, points()[:-1]).has(r.key) for r in refs(questions())
    )
    store = OutcomeStore(files[0].parent, points())
    assert sum(store.has(ref.key) for ref in refs(questions())) == 2
    judge = PricedJudge()
    assert written(tmp_path / "whole", judge=judge) == whole
    assert 0 < judge.n_scored <= 4 * 2 * 64
    assert [f.read_bytes() for f in files] == contents


def test_a_flipped_byte_is_noticed(tmp_path):
    """Anywhere in the file: it is done again, or what was flipped carries nothing."""
    groups = questions(1)
    whole = written(tmp_path, groups)
    (path,) = (tmp_path / "outcomes").iterdir()
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 10).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        assert written(tmp_path, groups) == whole, place


def test_an_oracle_with_all_finishers_is_as_accurate_as_consensus(tmp_path):
    policy = DeepPrune(FirstTokens(4), max_finishers=99, singleton_finishers=99)
    chosen = grid({"deepprune": policy}, n_traces=8, thresholds=[0.5], judges=["oracle"])
    row = flat(evaluate(tmp_path, judge={"oracle": OracleJudge()}, chosen=chosen))[-1]
    assert tuple(row["accuracy_vs_cons_n"]) == (0.0, 0.0, 0.0)
    assert row["token_saving"].value > 0


def test_a_sweep_of_several_judges_is_their_sweeps_side_by_side(tmp_path):
    """Policies that ask a judge have its rows as alone; those that ask none run once."""

    class Model(PricedJudge):
        is_model = True

    waves = DeepPrune(FirstTokens(4), max_finishers=3, wave=3, name="waves")
    judges = {"priced": Model(), "coin": CoinJudge(5), "oracle": OracleJudge()}

    def rows(folder, some):
        chosen = points(waves, AdaptiveConsistency(), judges=list(some))
        found = flat(evaluate(tmp_path / folder, chosen=chosen, judge=some))
        return [{k: v for k, v in r.items() if k != "p_mcnemar_holm"} for r in found]

    together = rows("all", judges)
    for name, judge in judges.items():
        alone = rows(name, {name: judge})
        assert [r for r in together if r["judge"] in (None, name)] == alone
    assert [r["policy"] for r in together if r["judge"] is None] == [
        *["consensus"] * 8, "adaptive_consistency"
    ]  # fmt: skip
    paid = {r["judge"] for r in together if r["judge_flops"] > 0}
    assert paid == {"priced"}


def test_matched_consensus_is_interpolated_in_tokens(tmp_path):
    """A point's k and accuracy of equal tokens lie on the lines between the curve's points."""
    rows = flat(evaluate(tmp_path))
    curve = [r for r in rows if r["policy"] == "consensus"]
    tokens = [r["tokens"] for r in curve]
    for row in rows[len(curve) :]:
        assert tokens[0] < row["tokens"] < tokens[-1]
        k = np.interp(row["tokens"], tokens, [r["k"] for r in curve])
        assert row["matched_k"] == pytest.approx(k)
        matched = np.interp(row["tokens"], tokens, [r["accuracy"].value for r in curve])
        gain = row["accuracy"].value - matched
        assert row["accuracy_vs_matched_cons"].value == pytest.approx(gain)


def test_a_smaller_n_is_a_sweep_of_its_own(tmp_path):
    """With N = 8 and 5 the rows of N = 5 are compared with cons@5, and no trace after the first
    five of an order is started."""
    chosen = points(*RIVALS, ns=[5, 8])
    rows = flat(evaluate(tmp_path, chosen=chosen))
    assert {r["n_traces"] for r in rows[7:]} == {5, 8}
    full = cons_n(rows, 5)
    for row in rows[7:]:
        assert row["status"] == "ok"
        if row["n_traces"] == 5:
            assert row["tokens"] <= full["tokens"]
            assert row["peak_traces"] <= 5
            saved = 1 - row["tokens"] / full["tokens"]
            assert row["token_saving"].value == pytest.approx(saved)


def test_a_judge_that_fails_fails_its_points_and_not_the_sweep(tmp_path):
    class Broken(PricedJudge):
        def score(self, pairs):
            return np.full(len(pairs), np.nan)

    chosen = points(*RIVALS)
    rows = evaluate(tmp_path, judge=Broken(), chosen=chosen)
    statuses = {row.policy: row.status for row in rows}
    assert statuses == {
        "consensus": "ok", "deepprune": "failed", "adaptive_consistency": "ok",
        "waves": "failed",
    }  # fmt: skip
    assert "a score lies in [0, 1]" in rows[-1].reason
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["status"] == "failed"
    mended = written(tmp_path, chosen=chosen)  # done again
    assert mended == written(tmp_path / "other", chosen=chosen)


class Log(Watcher):
    def __init__(self):
        self.seen = []

    def on_sweep_start(self, plan):
        self.seen.append(("start", len(plan.points), plan.n_recorded))

    def on_question_start(self, question):
        self.seen.append(question.question.question_id)

    def on_question_end(self, question, outcomes):
        self.seen.append(f"{question.question.question_id} done")

    def on_sweep_end(self, plan, rows):
        self.seen += [len(plan.points), *(row.policy for row in rows), "end"]


class Watch(Log):
    def on_checkpoint(self, point, step, seen):
        self.seen.append(point)

    def on_decision(self, point, decision):
        assert point.policy.name == "deepprune"
        self.seen.append(decision)


def test_callbacks_see_everything_in_order(tmp_path):
    log, n = Log(), 6
    evaluate(tmp_path, callbacks=[log])
    each = [name for i in range(n) for name in (f"q{i:02}", f"q{i:02} done")]
    rows = ["consensus"] * 8 + ["deepprune"] * 4
    assert log.seen == [("start", 12, 0), *each, 12, *rows, "end"]
    log.seen.clear()
    next((tmp_path / "outcomes").iterdir()).unlink()
    evaluate(tmp_path, callbacks=[log])
    assert log.seen[0] == ("start", 12, 5)
    assert len(log.seen) == 1 + 2 + 1 + 12 + 1


def test_those_who_watch_decisions_see_the_same_rows(tmp_path):
    """They make the sweep go run by run. Every run has a checkpoint before it votes."""
    plain = written(tmp_path / "plain")
    watch = Watch()
    assert written(tmp_path / "watched", callbacks=[watch]) == plain
    first = watch.seen[watch.seen.index("q00") : watch.seen.index("q00 done")]
    checkpoints = [x for x in first if isinstance(x, Point)]
    assert checkpoints.count(points()[0]) == 3
    assert checkpoints.count(points()[-1]) == 2 * 3
    assert sum(type(x).__name__ == "Decision" for x in first) > 0


def test_questions_without_gold_or_with_too_few_traces_are_refused(tmp_path):
    with pytest.raises(InputError, match="has none"):
        evaluate(tmp_path, [group(["a"] * 8, gold=None)])
    with pytest.raises(InputError, match=r"has 3 traces, fewer than sweep.traces=8"):
        evaluate(tmp_path, [group(["a"] * 3)])
    with pytest.raises(InputError, match="selection of traces is empty"):
        evaluate(tmp_path, [])


def test_what_a_policy_needs_is_asked_of_the_traces_before_anything_runs(tmp_path):
    chosen = points(EarlyExit(force_every=2), DeepConf())
    with pytest.raises(
        InputError, match="early_exit needs recorded forced answers, which these traces"
    ):
        evaluate(tmp_path, chosen=chosen)
    assert not (tmp_path / "outcomes").exists()
    # the last trace ended before its first forced answer
    forced = with_forced_answers(questions(1)[0], [[0]] * 7 + [[]], every=2)
    needs = {"priced": PricedJudge.needs}
    left = with_needs_met(chosen, forced, needs)
    assert {p.policy.name for p in left} == {"consensus", "deepprune", "early_exit"}
    mute = replace(forced, traces=tuple(replace(t, text="", token_end=[]) for t in forced.traces))
    assert {p.policy.name for p in with_needs_met(chosen, mute, needs)} == {
        "consensus",
        "early_exit",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "esc"}, "baseline 'esc' is not in the sweep"),
        ({"generators": {"large": SIZES["tiny"]}}, "the generator's size, and 'tiny' is not among"),
    ],
)
def test_impossible_settings_are_named(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        evaluate(tmp_path, questions(1), **changes)


def test_a_forced_answer_is_right_although_no_trace_ends_in_it(tmp_path):
    """Both traces end in b; their forced answers say class 1, which is the gold: settled on, it
    counts."""
    forced = with_forced_answers(group(["b", "b"], [30, 30], name="q0"), [[1, 1, 1]] * 2, every=5)
    right = [
        replace(t, forced_answers=tuple(replace(p, is_correct=True) for p in t.forced_answers))
        for t in forced.traces
    ]
    chosen = grid({"x": EarlyExit(force_every=5, agreeing=2)}, n_traces=2)
    groups = [replace(forced, traces=tuple(right))]
    row = flat(evaluate(tmp_path, groups, n_traces=2, chosen=chosen))[-1]
    assert row["accuracy"].value == row["pass_any"].value == 1.0


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"consensus": {"k": [5]}}, "consensus.k cannot be an axis: use the curve of"),
        ({"deepprune": {"prefix": [32]}}, "use sweep.prefix_lens"),
        ({"deepprune": {"name": ["x"]}}, "use a policy of its own"),
        ({"deepprune": {"clustering": []}}, "is empty: give at least one value"),
        ({"deepprune": {"max_members": [2.5]}}, "takes values like 10, got 2.5"),
        ({"deepprune": {"clustering": [3]}}, "takes values like 'greedy', got 3"),
        ({"deepprune": {"threshold": [50]}}, r"must lie in \[0, 1\], got 50"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(axes, said):
    policies = {"consensus": Consensus(), "deepprune": DeepPrune(FirstTokens(4))}
    with pytest.raises(InputError, match=said):
        grid(policies, n_traces=8, thresholds=[0.5], axes=axes)
