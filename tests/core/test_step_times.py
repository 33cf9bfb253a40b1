"""Step times against a loop over the steps."""

import numpy as np
import pytest
from builders import SessionEvidence, group

from deepprune.core.step_times import StepTimes
from deepprune.pruning.controller import run_question
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.race import Race
from deepprune.pruning.replay import ReplayEngine


@pytest.mark.parametrize("compute_s", [0.0, 0.1, 0.4, 2.0])
def test_decoding_is_the_sum_over_steps(compute_s):
    """Rows of traces, among them none and idle ones: max(1, n c) for each step of n traces."""
    rows = np.array([[3, 1, 7, 7, 0], [0, 0, 0, 0, 0], [2, 2, 2, 2, 2], [9, 0, 0, 0, 1]])
    times = StepTimes(1.0, compute_s, 0.0, 1.0)
    by_loop = [
        sum(max(1.0, (row > step).sum() * compute_s) for step in range(row.max())) for row in rows
    ]
    assert times.decode(rows).tolist() == pytest.approx(by_loop)
    assert times.decode(rows[:, :0]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("policy", [Consensus(), AdaptiveConsistency(), Race(width=3, budget=30)])
def test_a_replay_adds_up_its_steps(policy):
    """Steps of max(2, n) s and .1 s a token that is read; a prompt of 5 tokens, a step of 5 s."""
    traces = group(list("abacabbd"), [9, 4, 12, 5, 5, 7, 3, 10])
    session = ReplayEngine(traces, 5, StepTimes(2, 1, 0.1, 1)).open(8, seed=0)
    seconds, old = 5.0, np.zeros(8, int)

    def watch(hook, step, seen=None):
        nonlocal old, seconds
        if hook != "on_checkpoint":
            return
        new = np.pad(seen.n_tokens, (0, 8 - len(seen.n_tokens)))
        for tick in range(1, int((new - old).max()) + 1):
            places = (old + tick)[old + tick <= new]
            seconds += max(2, len(places)) + 0.1 * (places + 5).sum()
        old = new

    rng = np.random.default_rng(0)
    outcome = run_question(policy, session, 8, SessionEvidence(session), rng, watch)
    assert outcome.usage.seconds == pytest.approx(seconds)
