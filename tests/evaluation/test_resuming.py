"""A sweep that is killed at any of its writes ends in the rows of one that was left alone.

`test_commands` has the sweep that is really killed, with its worker processes.
"""

import os

import pytest
from sweeps import PricedJudge, points, questions, with_silent, written

from deepprune.callbacks.drop_dominated import DropDominated
from deepprune.core import files
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency

N_QUESTIONS = 12
WRITES = N_QUESTIONS + 1
"""A file for each question, then results.jsonl."""


class Killed(BaseException):
    pass


def sweep(folder, judge=None):
    """With points dropped after the fifth and the tenth question."""
    chosen = with_silent(points(AdaptiveConsistency()))
    looks = DropDominated(look_every=5)
    return written(folder, questions(N_QUESTIONS), chosen=chosen, judge=judge, callbacks=[looks])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    rows = sweep(tmp_path_factory.mktemp("whole"))
    assert b'"status": "dropped"' in rows
    return rows


@pytest.mark.parametrize("is_renamed", [False, True])
@pytest.mark.parametrize("write", [1, 5, 6, WRITES])
def test_a_sweep_killed_at_a_write_ends_in_the_same_rows(
    write, is_renamed, whole, tmp_path, monkeypatch
):
    """Right before the file is renamed into its place, or right after."""
    n_writes = 0

    def replace(source, target):
        nonlocal n_writes
        n_writes += 1
        if n_writes < write or is_renamed:
            os.rename(source, target)
        if n_writes == write:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(Killed):
            sweep(tmp_path)
    n_recorded = len(list((tmp_path / "outcomes").glob("*.npz")))
    assert n_recorded == min(write - (not is_renamed), N_QUESTIONS)
    judge = PricedJudge()
    assert sweep(tmp_path, judge) == whole
    assert judge.n_scored <= (N_QUESTIONS - n_recorded) * 2 * 64, "what stood was done again"
