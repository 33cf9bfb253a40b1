"""A sweep that is killed at random moments ends in the rows of one that was left alone."""

import json
import subprocess
import sys
from pathlib import Path

from sweeps import questions, write_store

N_QUESTIONS = 24


def test_sweeps_killed_at_random_moments_end_in_the_same_rows(tmp_path):
    """20 times SIGKILL, at moments drawn over the run's duration, with points dropped on the way;
    a sweep that is killed is started again until it ends."""
    write_store(tmp_path / "store", questions(N_QUESTIONS))
    script = Path(__file__).parents[1] / "kill_sweeps.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, tmp_path / "store"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)["kills"]
    assert len(kills) == 20
    assert sum(0 < n < N_QUESTIONS for n in kills) >= 5, "too few were killed in mid-sweep"
    whole = (tmp_path / "whole" / "results.jsonl").read_bytes()
    assert b'"status": "dropped"' in whole
    killed = sorted(tmp_path.glob("cut*"))
    for folder in killed:
        assert (folder / "results.jsonl").read_bytes() == whole, folder
