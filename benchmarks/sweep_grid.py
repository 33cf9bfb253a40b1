"""What a grid costs as axes of one run, against one run for every point.

    python benchmarks/sweep_grid.py

Both do the same points on the bundled pool with the sentence-embedding judge (a model, so that
scores cost something); the ratio is taken within this one process. Needs ``deepprune[demo]``.
"""

import tempfile
import time
from pathlib import Path

from deepprune.data.prefixes import FirstTokens
from deepprune.engines.replay import ReplayEngine
from deepprune.evaluation.evaluator import Evaluator
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.sweep import grid
from deepprune.judge.embedding import SentenceEmbeddingJudge
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.traces import open_traces

N, THRESHOLDS = 16, [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
SIZES = {"Qwen2.5-Coder-0.5B-Instruct": GeneratorSize(0.494e9, 24, 896)}


def seconds(thresholds: list[float]) -> float:
    """One sweep with a fresh judge; loading the judge and the traces is not counted."""
    groups = open_traces("pool").load()[:20]
    judge = SentenceEmbeddingJudge()
    rule = FirstTokens(64)
    points = grid([DeepPrune(rule)], n_traces=N, thresholds=thresholds, prefixes=[rule])
    judge.score([])
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        Evaluator(
            points, n_traces=N, resamples=4, seed=0, generators=SIZES, folder=Path(folder)
        ).run(groups, ReplayEngine(groups), judge)
    return time.perf_counter() - start


if __name__ == "__main__":
    seconds(THRESHOLDS[:1])  # loads what is loaded once
    one = seconds(THRESHOLDS)
    many = sum(seconds([t]) for t in THRESHOLDS)
    print(f"{len(THRESHOLDS)} thresholds in one run: {one:.1f} s; one run each: {many:.1f} s")
    print(f"ratio: {many / one:.1f}x")
