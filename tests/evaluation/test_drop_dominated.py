"""Points that others dominate are given up, whoever does the questions and whatever interrupts."""

import json

import pytest
from sweeps import PricedJudge, evaluate, points, questions, refs, with_silent, written

from deepprune.callbacks.drop_dominated import DropDominated
from deepprune.evaluation.outcomes import OutcomeStore


def rows(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_worse_and_dearer_point_is_dropped_after_the_first_look(tmp_path):
    """`Silent` generates as much as cons@8 and is never right. What is left has the same rows as
    without the callback, but for Holm's adjustment, which counts a dropped point with p = 1."""
    groups, chosen = questions(14), with_silent(points(thresholds=[0.5]))
    evaluate(tmp_path / "all", groups, chosen=chosen)
    evaluate(tmp_path / "some", groups, chosen=chosen, callbacks=[DropDominated(look_every=6)])
    *others, silent = rows(tmp_path / "some")
    assert silent["status"] == "dropped"
    assert silent["reason"].startswith("dominated after 6 questions by ")
    assert "accuracy" not in silent
    for row, full in zip(others, rows(tmp_path / "all"), strict=False):
        assert row | {"p_mcnemar_holm": 0} == full | {"p_mcnemar_holm": 0}
    store = OutcomeStore(tmp_path / "some" / "outcomes", chosen)
    spent = [
        int(store.read(ref.key, ["tokens_finished"]).fields["tokens_finished"][-1].sum())
        for ref in refs(groups)
    ]
    assert min(spent[:6]) > 0
    assert max(spent[8:]) == 0


def test_interrupted_and_resumed_the_looks_are_the_same(tmp_path):
    """Cut off before the look and after it; what was recorded before it is not done again."""
    groups, chosen = questions(14), with_silent(points(thresholds=[0.5]))
    whole = written(tmp_path, groups, chosen=chosen, callbacks=[DropDominated(6)])
    files = [tmp_path / "outcomes" / f.name for f in (tmp_path / "outcomes").iterdir()]
    for kept in (0, 3, 10):
        for i, ref in enumerate(refs(groups)):
            if i >= kept:
                OutcomeStore(tmp_path / "outcomes", chosen)._path(ref.key).unlink()
        judge = PricedJudge()
        again = written(tmp_path, groups, chosen=chosen, judge=judge, callbacks=[DropDominated(6)])
        assert again == whole
        assert judge.n_scored <= (14 - kept) * 2 * 64
    assert sorted(files) == sorted((tmp_path / "outcomes").iterdir())


def test_where_nothing_is_dominated_nothing_changes(tmp_path):
    """Not even by chance: no lead reaches 50 standard errors here."""
    groups = questions(12)
    plain = written(tmp_path / "a", groups)
    assert written(tmp_path / "b", groups, callbacks=[DropDominated(4, z=50)]) == plain
    assert b"dropped" not in plain


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="at least 2 questions, got 1"):
        DropDominated(1)
    with pytest.raises(ValueError, match="z must be positive, got 0"):
        DropDominated(z=0)
