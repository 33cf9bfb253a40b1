"""The judges of ``sweep.judges``: names and exports, before and after they are loaded."""

import json

import pytest
from builders import group
from sweeps import PricedJudge, refs

from deepprune.config.judges import check_unseen, further_judges, with_further
from deepprune.config.plans import JudgeChoice
from deepprune.core.errors import InputError
from deepprune.core.protocols import Need
from deepprune.data.splits import question_hash
from deepprune.judge.base import JudgeProvenance


def export(folder, **values):
    folder.mkdir(parents=True)
    nothing = {key: {} for key in ("settings", "training", "files", "calibration")}
    record = {"format": 2, "kind": "linear", "name": "mine", "needs": ["text"], **nothing}
    record |= {"prefix_rule": None, "seen_questions": [], "fingerprint": "f"}
    (folder / "judge.json").write_text(json.dumps(record | values))
    return folder


def test_names_and_folders_are_found_without_loading(tmp_path):
    run = tmp_path / "a"
    export(run / "judge", seen_questions=["1", "2"])
    found = further_judges(["oracle", "coin", str(run)], seed=5)
    assert list(found) == ["oracle", "coin", str(run)]
    assert found["coin"].load().seed == 5
    assert found["oracle"].sha256 is None
    assert found[str(run)].needs == {Need.TEXT}
    assert found[str(run)].seen_questions == {"1", "2"}
    assert further_judges([str(run / "judge")], 0).popitem()[1].sha256 == found[str(run)].sha256


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["oracle", "oracle"], "sweep.judges has oracle twice"),
        (
            ["orakel"],
            "sweep.judges takes lexical, .* or the folders of runs of train.py, got 'ora",
        ),
    ],
)
def test_bad_entries_are_named(entries, said):
    with pytest.raises(InputError, match=said):
        further_judges(entries, 0)


class Mine(PricedJudge):
    @property
    def provenance(self):
        return JudgeProvenance("mine", "mine-1")


def test_no_two_judges_have_the_same_name():
    """By its run, then by its folder; a judge that has neither is there already."""
    folders = ("runs/a/judge", "runs/b/judge", "elsewhere/b/judge")
    further = {entry: JudgeChoice(Mine.needs, Mine, sha256="f") for entry in folders}
    names = ["mine", "mine a", "mine b", "mine elsewhere/b/judge"]
    assert list(with_further({"mine": Mine()}, further)) == names
    with pytest.raises(InputError, match="which is the judge already: leave it out"):
        with_further({"mine": Mine()}, {"mine": JudgeChoice(Mine.needs, Mine)})


def test_a_judge_that_was_trained_on_test_questions_is_refused():
    groups = [group(["a", "b"], name=name) for name in "pq"]
    seen = frozenset([question_hash(groups[0].question.text)])
    known = JudgeChoice(Mine.needs, Mine, "f", seen)
    with pytest.raises(InputError, match=r"sweep\.judges has x, which was trained on 1 of the 2"):
        check_unseen({"x": known}, refs(groups))
    check_unseen({"x": known}, refs(groups[1:]))
