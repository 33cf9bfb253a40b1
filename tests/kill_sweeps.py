"""Kills sweeps at random moments, for `test_resuming`.

A program of its own: it forks, so that a sweep starts at once, and must have no threads by then.
"""

import json
import signal
import sys
import time
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from sweeps import evaluate, points, questions, with_silent

from deepprune.callbacks.drop_dominated import DropDominated
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.traces import TraceStore

N_KILLS = 20


def sweep(folder, store):
    chosen = with_silent(points(AdaptiveConsistency()))
    looks = DropDominated(look_every=8)
    evaluate(folder, store=TraceStore.open(store), chosen=chosen, callbacks=[looks])


def run(folder, store, seconds=None):
    """A sweep in a process of its own, killed after so many seconds; its exit code."""
    process = get_context("fork").Process(target=sweep, args=(folder, store))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def main(folder, store):
    """Kill sweeps until it is enough: each again and again until its questions are done, then it
    may end, and the next one starts. Prints how many questions stood at each kill."""
    evaluate(folder / "imports", questions(2))  # whatever a sweep imports late
    rng = np.random.default_rng(0)
    started = time.time()
    assert run(folder / "whole", store) == 0
    files = list((folder / "whole" / "outcomes").iterdir())
    duration = max(f.stat().st_mtime for f in files) - started  # of the questions
    kills, names = [], count()
    while len(kills) < N_KILLS:
        cut, n_done = folder / f"cut{next(names)}", 0
        while len(kills) < N_KILLS and n_done < len(files):
            code = run(cut, store, rng.uniform(0, duration / 2))
            assert code in (0, -signal.SIGKILL), code
            n_done = len(list((cut / "outcomes").glob("*.npz")))
            kills += [n_done] if code else []  # or it has ended before its time
        assert run(cut, store) == 0
    print(json.dumps({"kills": kills, "duration": duration}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
