"""The point chosen on half of the questions is reported on the other half, by the sweep's rules."""

import json

from sweeps import Silent, evaluate, points, questions

from deepprune.evaluation.grid import Point
from deepprune.judge.baselines import OracleJudge


def chosen(folder):
    return [json.loads(line) for line in (folder / "chosen.jsonl").read_text().splitlines()]


def test_the_other_half_reports_by_the_margin_of_the_sweep(tmp_path):
    """Of 12 questions 6 report: the chosen point, then the cons@k curve, at the sweep's margin."""
    rows = evaluate(tmp_path, questions(12), chosen=points(), margin=0.9)
    best, *curve = chosen(tmp_path)
    assert {row["n_questions"] for row in (best, *curve)} == {best["n_questions_choosing"]} == {6}
    assert {row["margin"] for row in (best, *curve)} == {row.facts["margin"] for row in rows}
    assert best["policy"] == "deepprune"
    assert {row["policy"] for row in curve} == {"consensus"}
    assert best["net_saving_halves_low"] <= best["net_saving_halves"] <= best["net_saving"] + 1


def test_a_point_of_a_further_judge_is_never_chosen(tmp_path):
    """An oracle beside the judge knows the answers: its points are the cheapest at any accuracy."""
    judges = {"mine": OracleJudge(), "oracle": OracleJudge()}
    evaluate(tmp_path, questions(12), judge=judges, chosen=points(judges=list(judges)), margin=0.9)
    assert chosen(tmp_path)[0]["judge"] == "mine"


def test_nothing_is_chosen_where_no_point_is_near_or_questions_are_few(tmp_path):
    evaluate(tmp_path / "few", questions(3), margin=0.9)
    assert chosen(tmp_path / "few") == []
    curve = [p for p in points() if p.policy.name == "consensus"]
    evaluate(tmp_path / "far", questions(12), chosen=[*curve, Point(Silent(), 8)])
    assert chosen(tmp_path / "far") == []
