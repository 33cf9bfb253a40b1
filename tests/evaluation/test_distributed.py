"""Whoever does the questions, the rows are the same bytes."""

from pathlib import Path

import pytest
import sweeps
from sweeps import RIVALS, points, questions, with_silent, write_store, written

from deepprune.callbacks.drop_dominated import DropDominated
from deepprune.evaluation.distributed import Processes, Ray

N_QUESTIONS = 18


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("traces") / "store", questions(N_QUESTIONS))


def sweep(store, folder, distributed, callbacks=()):
    chosen = with_silent(points(*RIVALS))
    rows = written(folder, store=store, chosen=chosen, distributed=distributed, callbacks=callbacks)
    assert len(list((folder / "outcomes").iterdir())) == N_QUESTIONS
    return rows


def test_two_processes_give_the_rows_of_one(store, tmp_path):
    """With a look at what can be dropped half-way, where the processes are started anew."""
    one = sweep(store, tmp_path / "one", Processes(1), [DropDominated(N_QUESTIONS // 2)])
    assert b'"status": "dropped"' in one
    assert sweep(store, tmp_path / "two", Processes(2), [DropDominated(N_QUESTIONS // 2)]) == one


@pytest.mark.slow
def test_a_ray_cluster_gives_the_rows_of_one_process(store, tmp_path, monkeypatch):
    """Its processes find the judge and the policies of `sweeps` on the PYTHONPATH."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(sweeps.__file__).parent))
    alone = sweep(store, tmp_path / "alone", Processes(1))
    assert sweep(store, tmp_path / "ray", Ray(2)) == alone


@pytest.mark.parametrize("kind", [Processes, Ray])
def test_no_fewer_than_one(kind):
    with pytest.raises(ValueError, match=r"n must be >= 1.*, got 0"):
        kind(0)
