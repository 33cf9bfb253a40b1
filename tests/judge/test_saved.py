"""What the folders of trained judges are refused for, and those that older versions wrote."""

import json
from pathlib import Path

import pytest
from linear_judges import fitted, planted

from deepprune.core.errors import InputError
from deepprune.data.prefixes import FirstTokens, ReasoningWords
from deepprune.judge.loading import load_judge
from deepprune.judge.saved import read_record

OLD = Path(__file__).parents[1] / "old"


def test_an_old_cross_encoder_is_read():
    judge = load_judge(OLD / "cross_encoder" / "judge", "cpu")
    assert judge.provenance.name == "tiny"
    assert len(judge.provenance.seen_questions) > 0
    assert read_record(OLD / "cross_encoder" / "judge").prefix_rule == FirstTokens(16)
    pairs = planted(1, 4)
    assert ((judge.score(pairs) > 0) & (judge.score(pairs) < 1)).all()


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("features", "train model=linear"),
        ("bi_encoder", "train model=linear"),
        ("probe", r"train model=linear model.groups=\[forced_answers\]"),
        ("cascade", "give both of its judges to judge=cascade"),
    ],
)
def test_old_kinds_are_refused_with_what_to_do(kind, instead):
    told = f"old/{kind}/judge cannot be read: kind {kind} ended with 0.2: {instead}"
    with pytest.raises(InputError, match=told):
        load_judge(OLD / kind / "judge")


def test_prefix_rules_are_kept_and_others_refused(tmp_path):
    rule = ReasoningWords(3, ("wait", "thus"))
    folder = fitted(planted(2), steps=1).export(tmp_path / "judge", prefix_rule=rule)
    assert read_record(folder).prefix_rule == rule
    record = json.loads((folder / "judge.json").read_text())
    for rule in ({"rule": "make_prefix"}, {"rule": "FirstTokens", "n": 3}):
        (folder / "judge.json").write_text(json.dumps(record | {"prefix_rule": rule}))
        with pytest.raises(InputError, match="damaged"):
            read_record(folder)
    (folder / "judge.json").write_text(json.dumps(record | {"kind": "tree"}))
    with pytest.raises(InputError, match="of kind cross_encoder or linear, got 'tree'"):
        load_judge(folder)
