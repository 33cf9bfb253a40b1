"""Race with a judge's look at the traces in flight, in place of forced answers; tried, not better.

    export PYTHONPATH=experiments/p3_race
    python train.py --config-dir experiments/p3_race/conf experiment=p3_judged_race

Each trace in flight of at least ``flight_after`` tokens counts for the answer of the finished
traces that the judge finds most like it: ``flight`` votes times the mean score.
"""

from dataclasses import dataclass
from itertools import product
from math import sqrt

import numpy as np

from deepprune.core.protocols import ANY_FINISHED, Need, Step
from deepprune.core.types import NO_ANSWER, Decision, StopReason
from deepprune.pruning.stopping import beta
from deepprune.pruning.voting import first_come


@dataclass(frozen=True, slots=True)
class JudgedRace:
    """`Race` whose traces in flight vote by the judge's scores against the finished traces."""

    width: int = 4
    budget: float = 100.0
    flight: float = 0.25
    flight_after: int = 64
    name: str = "judged_race"

    @property
    def needs(self):
        """The judge."""
        return frozenset([Need.JUDGE])

    def run(self, n_traces, evidence, rng):
        """Decide as `Race.run` does; only the votes of the traces in flight differ."""
        allowance = self.budget * evidence.mean_length
        finished, started = [], 0
        while True:
            new = min(self.width - (started - len(finished)), n_traces - started)
            seen = yield Step(start=new, until=ANY_FINISHED)
            started += new
            finished += [i for i in np.flatnonzero(seen.is_finished).tolist() if i not in finished]
            running = sorted(set(range(started)) - set(finished))
            answer = seen.answer_class.tolist()
            voters, weights = list(finished), [1.0] * len(finished)
            known = [i for i in finished if answer[i] != NO_ANSWER]
            asked = [t for t in running if seen.n_tokens[t] >= self.flight_after]
            if known and asked:
                pairs = np.array(list(product(known, asked)))
                scores = evidence.score(pairs).reshape(len(known), len(asked))
                classes = np.array([answer[i] for i in known])
                kinds = np.unique(classes)
                like = np.stack([scores[classes == kind].mean(0) for kind in kinds])
                for column, trace in enumerate(asked):
                    answer[trace] = int(kinds[like[:, column].argmax()])
                    voters.append(trace)
                    weights.append(self.flight * float(like[:, column].max()))
            vote = first_come(answer, voters, weights)
            counts = tuple(sorted(vote.weights.values(), reverse=True))
            doubt = 1 - beta(counts) if counts else 0.5
            is_decided = doubt <= sqrt(int(seen.n_tokens.sum()) / allowance)
            if is_decided or len(finished) == n_traces:
                break
        if running:
            yield Step(stop=[Decision(trace, StopReason.DECIDED) for trace in running])
        return vote
