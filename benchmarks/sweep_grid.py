"""Measure a large pruning sweep from the command line, imports, scores and statistics included.

    python benchmarks/sweep_grid.py TRACES.parquet [grid|thresholds|points|scale ...]

- ``grid``: 20 thresholds x 5 prefix lengths x 6 policies, lexical judge, N = 64, 16 orders.
- ``thresholds``: the same with 200 thresholds; the ratio.
- ``points``: the grid in one run, against one process for each of its points, extrapolated from
  the mean of three processes.
- ``scale``: 100 and 1,000 questions x 512 traces, drawn with replacement from the file; 10
  points.

Each run prints seconds and the peak memory of all its processes together (proportional set size,
sampled ten times a second; Linux only). ``scale`` writes about 2 GB to the temporary folder.
"""

import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepprune.traces import TraceStore, open_traces

POLICIES = [
    "pruning=[deepprune,representatives]",
    "sweep.judges=[oracle,coin]",
    "+sweep.axes.deepprune.clustering=[greedy,average]",
    "+sweep.axes.representatives.clustering=[greedy,average]",
]
GRID = ["sweep.traces=64", "sweep.resamples=16", "sweep.prefix_lens=[100,200,300,500,700]"]


def thresholds(n: int) -> str:
    """Return the override for n thresholds, evenly spaced in [0, 1)."""
    return f"sweep.thresholds=[{','.join(f'{i / n:g}' for i in range(n))}]"


def run(traces: str, *overrides: str) -> tuple[float, float]:
    """Return seconds and peak GiB of one ``deepprune evaluate``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deepprune.cli", "evaluate", f"traces={traces}"]
        command += ["logger=none", f"hydra.run.dir={folder}/run", *overrides]
        start = time.perf_counter()
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            peak = [0.0]
            watcher = threading.Thread(target=_watch, args=(process, peak))
            watcher.start()
            code = process.wait()
            watcher.join()
        seconds = time.perf_counter() - start
        if code:
            sys.exit(Path(folder, "log").read_text()[-2000:])
    return seconds, peak[0]


def _watch(process: subprocess.Popen, peak: list[float]) -> None:
    while process.poll() is None:
        family = [process.pid]
        for pid in family:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    family += map(int, children.read_text().split())
                except OSError:
                    continue
        peak[0] = max(peak[0], sum(map(_pss, family)) / 2**20)
        time.sleep(0.1)


def _pss(pid: int) -> int:
    """Return the proportional set size in KiB; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def grid(traces: str, n: int = 20) -> float:
    """Time the grid with n thresholds."""
    seconds, peak = run(traces, *GRID, *POLICIES, thresholds(n))
    print(f"{n} thresholds x 5 prefix lengths x 6 policies: {seconds:.1f} s, {peak:.2f} GiB")
    return seconds


def points(traces: str) -> None:
    """Compare the grid in one run with one process per point."""
    whole = grid(traces)
    small = ["sweep.traces=64", "sweep.resamples=16", "pruning=deepprune"]
    chosen = [(0.1, 100), (0.5, 300), (0.9, 700)]
    each = [
        run(traces, *small, f"sweep.thresholds=[{t}]", f"sweep.prefix_lens=[{k}]")[0]
        for t, k in chosen
    ]
    mean, n = float(np.mean(each)), 20 * 5 * 6
    print(f"one point in a process of its own: {', '.join(f'{s:.1f} s' for s in each)}")
    print(f"{n} such processes, one after the other: {n * mean:.0f} s = {n * mean / whole:.0f}x")


def scale(traces: str) -> None:
    """Measure time and memory for 100 and 1,000 questions."""
    with tempfile.TemporaryDirectory() as folder:
        path = _resampled(traces, 1000, 512, Path(folder) / "store")
        for n in (100, 1000):
            seconds, peak = run(
                str(path),
                f"sweep.questions={n}",
                "sweep.resamples=1",
                "sweep.thresholds=[0.1,0.2,0.3,0.4,0.5]",
                "pruning=[deepprune,representatives]",
            )
            print(f"{n} questions x 512 traces, 10 points: {seconds:.1f} s, {peak:.2f} GiB")


def _resampled(traces: str, n_questions: int, n_traces: int, path: Path) -> Path:
    """Write a store of questions whose traces are drawn with replacement from real ones."""
    source = open_traces(traces)
    refs, rng = source.refs(), np.random.default_rng(0)
    store = TraceStore.create(path, token_counter="qwen", answers="source")
    for start in range(0, n_questions, 50):
        part = []
        for number in range(start, min(start + 50, n_questions)):
            group = source.group(refs[number % len(refs)])
            question = replace(
                group.question,
                question_id=f"{number:04d} {group.question.question_id}",
                text=f"{number}. {group.question.text}",
            )
            for sample, i in enumerate(rng.integers(len(group.traces), size=n_traces)):
                part.append(replace(group.traces[i], question=question, sample_id=sample))
        store.append(part)
    return path


if __name__ == "__main__":
    what = sys.argv[2:] or ["thresholds", "points", "scale"]
    if "grid" in what:
        grid(sys.argv[1])
    if "thresholds" in what:
        few = grid(sys.argv[1], 20)
        many = grid(sys.argv[1], 200)
        print(f"200 thresholds instead of 20: {many / few:.2f}x the time")
    if "points" in what:
        points(sys.argv[1])
    if "scale" in what:
        scale(sys.argv[1])
