"""The table of a multirun: what is one row, and what its intervals are over."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from deepprune.judge.measure.bootstrap import QuestionDraws
from deepprune.judge.measure.comparison import (
    HEADLINE,
    MIN_SEEDS,
    RunRecord,
    _seed_weights,
    compare,
    is_clear_of_0,
    read_runs,
)
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report.tables import comparison_table

N_QUESTIONS, N_PAIRS = 12, 20


def pair_scores(seed, skill, questions=range(N_QUESTIONS)):
    """A judge whose scores are the label times ``skill`` plus noise."""
    n = len(questions) * N_PAIRS
    labels = np.tile([1, 0], n // 2)
    noise = np.random.default_rng(seed).random(n)
    return PairScores(
        (skill * labels + noise) / (1 + skill),
        labels,
        np.repeat([f"q{q}" for q in questions], N_PAIRS),
        np.full(n, "m"),
        np.full(n, True),
    )


def run(name, scores=None, status="ok", **overrides):
    return RunRecord(name, status, "", 0, {k: str(v) for k, v in overrides.items()}, "", {}, scores)


def test_runs_that_differ_in_their_seeds_are_one_row():
    runs = [
        run("0", pair_scores(0, 0.5), loss="bce", seed=0),
        run("1", pair_scores(1, 0.5), loss="bce", seed=1),
        run("2", pair_scores(2, 0.5), loss="focal", seed=0),
        run("3", status="failed", loss="focal", seed=1),
    ]
    bce, focal = compare(runs)
    assert [r.name for r in bce.runs] == ["0", "1"]
    assert ([r.name for r in focal.runs], [r.name for r in focal.missing]) == (["2"], ["3"])
    values = [r.scores.metric("auroc_within") for r in runs[:2]]
    assert bce.metrics["auroc_within"].value == pytest.approx(np.mean(values))
    assert bce.baseline is None
    assert focal.baseline == {"loss": "bce"}
    # The difference is over the seed that both have, not to the mean over both.
    difference = runs[2].scores.metric("auroc") - runs[0].scores.metric("auroc")
    assert focal.differences["auroc"].value == pytest.approx(difference)
    assert comparison_table([bce, focal]).row_count == 2


def test_seeds_widen_the_interval_and_equal_rows_do_not_differ():
    """With seeds of different skill the interval reaches over both; the same run twice is 0."""
    even = [run(str(s), pair_scores(0, 0.6), loss="a", seed=s) for s in range(3)]
    same = [run(str(3 + s), pair_scores(0, 0.6), loss="b", seed=s) for s in range(3)]
    uneven = [
        run(str(6 + s), pair_scores(0, skill), loss="c", seed=s)
        for s, skill in enumerate((0.1, 0.6, 2.0))
    ]
    a, b, c = compare([*even, *same, *uneven])
    assert b.differences["auroc"] == (0, 0, 0)
    widths = [e.high - e.low for e in (a.metrics["auroc"], c.metrics["auroc"])]
    assert widths[1] > 2 * widths[0]
    assert not is_clear_of_0(b.differences["auroc"])


def test_intervals_depend_neither_on_what_tells_rows_apart_nor_on_the_seed_of_a_run():
    scores = [pair_scores(s, 0.5) for s in range(3)]
    runs = [run(str(s), each, loss="bce", lr=1, seed=s) for s, each in enumerate(scores)]
    assert compare(runs)[0].metrics == compare(runs, by=["loss"])[0].metrics
    (alone,) = compare(runs[2:])
    its_own = QuestionDraws(scores[2].question).estimates(scores[2])
    assert alone.metrics[HEADLINE] == its_own[HEADLINE]


def test_two_seeds_are_too_few_for_an_interval_over_seeds():
    """However different they are. With three the interval is wide, but stays inside [0, 1]."""
    skills = (0.05, 20.0, 0.05)
    two, three = (
        [run(str(s), pair_scores(0, skill), seed=s) for s, skill in enumerate(skills[:n])]
        for n in (2, MIN_SEEDS)
    )
    (row,) = compare(two)
    found = row.metrics["auroc"]
    assert found.high - found.low < 0.15
    assert "2 are too few for an interval over seeds" in comparison_table([row]).caption
    (row,) = compare(three)
    assert row.metrics["auroc"].high == 1
    assert "too few" not in comparison_table([row]).caption


def test_a_better_judge_is_clear_of_a_named_baseline_within_its_own_prefix():
    skills = {("bce", "short"): 0.2, ("both", "short"): 1.0, ("bce", "long"): 0.4}
    runs = [
        run(f"{i}", pair_scores(i, skill), loss=loss, prefix=prefix)
        for i, ((loss, prefix), skill) in enumerate(skills.items())
    ]
    short, both, long = compare(runs, {"loss": "bce"})
    assert short.baseline is long.baseline is None
    assert both.baseline == {"loss": "bce", "prefix": "short"}
    assert is_clear_of_0(both.differences["auroc_within_unfinished"])


def test_seeds_with_other_questions_are_averaged_too():
    runs = [
        run("0", pair_scores(0, 0.5, range(8)), **{"data.split_seed": 0}),
        run("1", pair_scores(1, 0.5, range(4, 12)), **{"data.split_seed": 1}),
    ]
    (row,) = compare(runs)
    assert row.metrics["auroc"].low < row.metrics["auroc"].value < row.metrics["auroc"].high


def test_runs_are_read_from_their_folders(tmp_path):
    """Also one that was killed, and one that failed before it wrote anything."""
    for name in ("0", "1", "2", "10"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text(f"- seed={name}\n")
    scores = pair_scores(0, 1.0)
    scores.save(tmp_path / "0" / "test_scores.npz")
    summary = {"status": "ok", "overrides": {"seed": "0"}, "point": "", "metrics": {"x": [1, 0, 2]}}
    (tmp_path / "0" / "summary.json").write_text(json.dumps(summary))
    failure = {"exit_code": 2, "reason": "no such traces"}
    (tmp_path / "2" / "failure.json").write_text(json.dumps(failure))
    runs = read_runs(tmp_path)
    assert [(r.name, r.status, r.exit_code) for r in runs] == [
        ("0", "ok", 0),
        ("1", "unfinished", 1),
        ("2", "failed", 2),
        ("10", "unfinished", 1),
    ]
    assert runs[2].overrides == {"seed": "2"}
    np.testing.assert_array_equal(runs[0].scores.scores, scores.scores)
    (row,) = compare(runs)
    assert "run 2 failed: no such traces" in comparison_table([row]).caption


def test_runs_of_version_0_1_are_read(tmp_path):
    shutil.copytree(Path(__file__).parents[1] / "old" / "features", tmp_path / "0")
    (tmp_path / "0" / ".hydra").mkdir()
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("[]")
    (run,) = read_runs(tmp_path)
    assert run.metrics["tnr_at_fnr_20"].value == pytest.approx(0.45299, abs=1e-5)
    (row,) = compare([run])
    assert row.metrics["tnr_at_fnr_20"].value == run.metrics["tnr_at_fnr_20"].value


def test_folds_are_one_run_of_all_questions_once_all_are_done():
    halves = [pair_scores(0, 0.5, range(6)), pair_scores(1, 0.5, range(6, 12))]
    folds = [run(str(f), half, **{"data.fold": f, "seed": 0}) for f, half in enumerate(halves)]
    (row,) = compare(folds)
    assert [r.name for r in row.runs] == ["0+1"]
    assert row.overrides == {}
    both = PairScores.concatenate(halves)
    assert row.metrics["auroc"].value == pytest.approx(both.metric("auroc"))
    killed = run("1", status="unfinished", **{"data.fold": 1, "seed": 0})
    (row,) = compare([folds[0], killed])
    assert (row.runs, [r.name for r in row.missing]) == ([], ["0+1"])


def test_a_fold_that_was_never_started_is_missing():
    halves = [pair_scores(0, 0.5, range(6)), pair_scores(1, 0.5, range(6, 12))]
    runs = [
        run("0", halves[0], **{"data.fold": 0, "seed": 0}),
        run("1", halves[1], **{"data.fold": 1, "seed": 0}),
        run("2", halves[0], **{"data.fold": 0, "seed": 1}),
    ]
    (row,) = compare(runs)
    assert [r.name for r in row.runs] == ["0+1"]
    assert [(r.name, r.reason) for r in row.missing] == [("2", "data.fold 1 was not started")]


def test_intervals_over_three_seeds_cover_what_they_say():
    """Noise of the seeds alone, around 0."""
    means = np.random.default_rng(0).standard_normal((4000, 3))
    drawn = _seed_weights(0, 3, 1000) @ means.T
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    assert 0.92 < np.mean((low < 0) & (high > 0)) < 0.98


def test_without_unfinished_pairs_the_other_metrics_stand():
    scores = pair_scores(0, 0.5)._replace(is_unfinished=np.full(N_QUESTIONS * N_PAIRS, False))
    (row,) = compare([run("0", scores, seed=0)])
    assert row.metrics["auroc"].low < row.metrics["auroc"].high
    assert "auroc_unfinished" not in row.metrics


def test_other_pairs_are_not_subtracted():
    """Seed 1 has the questions of both rows, seed 0 has not."""
    runs = [
        run("0", pair_scores(0, 0.5, range(8)), loss="a", seed=0),
        run("1", pair_scores(1, 0.5), loss="a", seed=1),
        run("2", pair_scores(2, 0.9), loss="b", seed=0),
        run("3", pair_scores(3, 0.9), loss="b", seed=1),
    ]
    difference = compare(runs)[1].differences["auroc"].value
    one, other = (r.scores.metric("auroc") for r in (runs[3], runs[1]))
    assert difference == pytest.approx(one - other)


def test_runs_of_two_multiruns_may_share_their_names():
    skills = {"a": 0.1, "b": 2.0}
    rows = compare([run("0", pair_scores(0, skill), loss=name) for name, skill in skills.items()])
    assert rows[0].metrics["auroc"].value < rows[1].metrics["auroc"].value


@pytest.mark.parametrize(
    ("texts", "value"), [(("true", "false"), False), (("2", "null"), None), (("1", "1e-3"), 0.001)]
)
def test_a_baseline_is_named_by_values_not_by_their_spelling(texts, value):
    rows = compare([run(t, pair_scores(0, 0.5), x=t) for t in texts], {"x": value})
    assert [row.baseline for row in rows] == [{"x": texts[1]}, None]


def test_a_row_without_a_finished_run_is_no_baseline():
    failed = run("0", status="failed", loss="a")
    done = [run(name, pair_scores(0, 0.5), loss=name) for name in "bc"]
    assert [row.baseline for row in compare([failed, *done])][1:] == [None, {"loss": "b"}]
