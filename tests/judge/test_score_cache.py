import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from builders import group

from deepprune.core.errors import InputError
from deepprune.core.types import Prefix, TracePair
from deepprune.judge.base import Judge, JudgeProvenance
from deepprune.judge.score_cache import ScoreCache, cached_scores


def pairs(n=4):
    question = group(["a"] * (n + 1))
    prefixes = [Prefix(t, 5, is_finished=False) for t in question.traces]
    return [TracePair(prefixes[0], other) for other in prefixes[1:]]


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_was_put_comes_back(on_disk, tmp_path):
    with ScoreCache(tmp_path / "new" / "scores.sqlite" if on_disk else None) as cache:
        some = pairs(4)
        cache.put_many("judge", some[:2], [0.25, 1.0])
        assert cache.get_many("judge", some)[:2].tolist() == [0.25, 1.0]
        assert np.isnan(cache.get_many("judge", some)[2:]).all()
        assert np.isnan(cache.get_many("other judge", some)).all()
        assert len(cache) == 2
        cache.put_many("judge", some[:1], [0.5])
        assert cache.get_many("judge", some)[0] == 0.5
        assert cache.get_many("judge", []).shape == (0,)


def test_the_order_and_the_prefix_are_part_of_the_key():
    cache, (pair, *_) = ScoreCache(), pairs()
    cache.put_many("judge", [pair], [0.5])
    longer = TracePair(pair.first, Prefix(pair.second.trace, 6, is_finished=False))
    assert np.isnan(cache.get_many("judge", [TracePair(pair.second, pair.first), longer])).all()


def test_more_keys_than_one_query_takes():
    cache, some = ScoreCache(), pairs(1200)
    scores = np.linspace(0, 1, len(some))
    cache.put_many("judge", some, scores)
    assert (cache.get_many("judge", some) == scores).all()


@pytest.mark.parametrize("scores", [[0.5, 1.5], [0.5, float("nan")], [0.5]])
def test_only_scores_are_stored(scores):
    class Wrong(Judge):
        is_model = True
        provenance = JudgeProvenance("wrong", "wrong-1")

        def score(self, pairs):
            return np.array(scores)

    cache = ScoreCache()
    with pytest.raises(ValueError, match="judge 'wrong' gave"):
        cached_scores(Wrong(), cache, pairs(2))
    assert len(cache) == 0


def test_a_reader_beside_the_writer(tmp_path):
    with ScoreCache(tmp_path / "s") as writer, ScoreCache(tmp_path / "s") as reader:
        writer.put_many("judge", pairs(2), [0.1, 0.2])
        assert reader.get_many("judge", pairs(2)).tolist() == [0.1, 0.2]


_PROCESS = """
    import sys; sys.path[:0] = {paths!r}
    import time
    import numpy as np
    from builders import group
    from deepprune.judge.score_cache import ScoreCache
    from deepprune.core.types import Prefix, TracePair
    prefixes = [Prefix(t, 5, is_finished=False) for t in group(["a"] * 4).traces]
    pairs = [TracePair(prefixes[0], p) for p in prefixes[1:]]
    print("ready", flush=True); sys.stdin.readline()
    with ScoreCache({path!r}) as cache:
"""
_WRITE = """
        for i in range(200):
            cache.put_many(str(i), pairs, [i / 200] * 3)
"""
_READ = """
        end = time.monotonic() + 200  # a hang
        for i in range(200):
            while np.isnan(found := cache.get_many(str(i), pairs)).any():
                assert np.isnan(found).all() and time.monotonic() < end, found
                time.sleep(0.001)  # leaves the core to the writer
            assert (found == i / 200).all()
"""


def test_processes_read_whole_batches_while_one_writes(tmp_path):
    """All open a file that is not there yet, at once; a batch shows whole or not at all."""
    head = _PROCESS.format(
        paths=[p for p in sys.path if p.endswith("tests")], path=str(tmp_path / "s")
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(head + body)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for body in (_WRITE, _READ, _READ, _READ)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_another_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no database at all, but long enough to be looked at" * 20)
    with pytest.raises(InputError, match=r"notes\.txt"):
        ScoreCache(tmp_path / "notes.txt")


def test_a_file_that_another_process_is_creating_is_waited_for(tmp_path, monkeypatch):
    """SQLite refuses the switch to the write-ahead log without waiting; the other then finishes."""
    other = sqlite3.connect(tmp_path / "s", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("time.sleep", lambda seconds: other.execute("COMMIT"))
    with ScoreCache(tmp_path / "s") as cache:
        cache.put_many("judge", pairs(2), [0.1, 0.2])
        assert len(cache) == 2


def test_a_file_that_stays_locked_is_not_called_foreign(tmp_path):
    other = sqlite3.connect(tmp_path / "s", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InputError, match=r"cannot open .*locked.*no other run"):
        ScoreCache(tmp_path / "s", timeout_s=0)


def test_batches_survive_a_killed_process(tmp_path):
    """A child writes batches of three until it is killed; whole batches are there, none torn."""
    code = f"""
        import sys; sys.path[:0] = {[p for p in sys.path if p.endswith("tests")]!r}
        from builders import group
        from deepprune.judge.score_cache import ScoreCache
        from deepprune.core.types import Prefix, TracePair
        cache = ScoreCache({str(tmp_path / "s")!r})
        prefixes = [Prefix(t, 5, is_finished=False) for t in group(["a"] * 4).traces]
        for i in range(10**9):
            cache.put_many(str(i), [TracePair(prefixes[0], p) for p in prefixes[1:]], [0.5] * 3)
            if i == 50:
                print("going", flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "going\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    with ScoreCache(tmp_path / "s") as cache:
        assert len(cache) >= 51 * 3
        assert len(cache) % 3 == 0
        assert not np.isnan(cache.get_many("50", pairs(3))).any()
