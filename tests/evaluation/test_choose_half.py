"""The point chosen on half of the questions is reported on the other half, by the sweep's rules."""

import json

from sweeps import evaluate, points, questions

from deepprune.callbacks.choose_half import ChooseHalf


def test_the_other_half_reports_by_the_margin_of_the_sweep(tmp_path):
    """Of 12 questions 6 report: the chosen point and the cons@k curve, at the sweep's margin."""
    callbacks = [ChooseHalf(within=0.9, splits=5)]
    rows = evaluate(tmp_path, questions(12), chosen=points(), margin=0.2, callbacks=callbacks)
    chosen = [json.loads(line) for line in (tmp_path / "chosen.jsonl").read_text().splitlines()]
    assert {row["n_questions"] for row in chosen} == {6}
    assert {row["margin"] for row in chosen} == {row.facts["margin"] for row in rows} == {0.2}
    assert [row["policy"] for row in chosen if row["policy"] != "consensus"] == ["deepprune"]
