"""Which pairs the expensive judge of a cascade sees, and what comes of it."""

import numpy as np
import pytest
from builders import group
from linear_judges import fitted, planted

from deepprune.core.errors import InputError
from deepprune.core.types import Prefix, TracePair
from deepprune.evaluation.scores import QuestionScores
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.judge.cascade import CascadeJudge
from deepprune.judge.loading import load_cascade


class Given(Judge):
    """Scores pairs by the numbers of their traces, at a price, and remembers what it was asked."""

    is_symmetric = True

    def __init__(self, name, scores, price=0.0):
        self.name, self.scores, self.price, self.asked = name, scores, price, []

    @property
    def provenance(self):
        return JudgeProvenance(self.name, f"{self.name} v1", frozenset({self.name}))

    def score(self, pairs):
        self.asked += [p.second.trace.sample_id for p in pairs]
        return np.array([self.scores[p.second.trace.sample_id - 1] for p in pairs])

    def pair_prices(self, pairs):
        return Prices(np.full(len(pairs), self.price), np.full(len(pairs), 10 * self.price))


def pairs(n=4):
    """Trace 0 against the others."""
    prefixes = [Prefix(t, 5, is_finished=False) for t in group(["a", "b"] * n).traces[: n + 1]]
    return [TracePair(prefixes[0], other) for other in prefixes[1:]]


def test_the_expensive_judge_is_asked_and_paid_within_the_band_alone():
    """Log-odds of .5 and of .8 are 0 and log 4; their mean is log 2, a score of 2/3."""
    cheap = Given("cheap", [0.1, 0.5, 0.7, 0.9], price=1)
    expensive = Given("expensive", [0.8] * 4, price=100)
    judge = CascadeJudge(cheap, expensive, low=0.5, high=0.6, share=0.3)
    assert judge.prepare(None) == {}
    assert judge.score(pairs()) == pytest.approx([0.1, 2 / 3, 0.7, 0.9])
    assert expensive.asked == [2]
    assert judge.sends(pairs()).tolist() == [False, True, False, False]
    assert judge.pair_prices(pairs()).tokens.tolist() == [1, 101, 1, 1]
    assert judge.pair_prices(pairs()).flops.tolist() == [10, 1010, 10, 10]
    assert cheap.asked == [1, 2, 3, 4]  # its scores are remembered
    assert judge.provenance.seen_questions == {"cheap", "expensive"}
    none, all_ = (CascadeJudge(cheap, expensive, low=0, high=high) for high in (0, 1))
    assert not none.sends(pairs()).any()
    assert all_.sends(pairs()).all()
    assert len({j.provenance.fingerprint for j in (judge, none, all_)}) == 3


def test_a_prefix_costs_the_expensive_judge_only_in_a_pair_that_is_sent():
    """Of the pairs 0-1, 0-2 and 0-3 the cascade sends 0-2: 4 prefixes of 1 token, 2 of 100."""
    cheap, expensive = Given("cheap", [0.1, 0.5, 0.9]), Given("expensive", [0.8] * 3)
    for judge, price in ((cheap, 1.0), (expensive, 100.0)):
        judge.prefix_prices = lambda p, price=price: Prices(
            np.full(len(p), price), np.zeros(len(p))
        )
    scores = QuestionScores(CascadeJudge(cheap, expensive, low=0.4, high=0.6))
    some = pairs()[:3]
    ids = scores.prefix_ids([some[0].first, *(pair.second for pair in some)])
    asked = np.stack((np.zeros(3, int), ids[1:]), axis=1)
    scores.lookup(asked)
    assert scores.bill(asked).tolist() == [3, 4 * 1 + 2 * 100, 0]
    assert scores.bill(asked[:1]).tolist() == [1, 2, 0]


def test_a_share_takes_the_pairs_nearest_the_median():
    """Scores of log-odds -4, -1, 0, 1, 4: three fifths lie within 1 of the median."""
    scores = 1 / (1 + np.exp([4.0, 1.0, 0.0, -1.0, -4.0]))
    judge = CascadeJudge(Given("cheap", scores), Given("expensive", [0.9] * 5), share=0.6)
    chosen = judge.prepare(lambda: pairs(5))
    # The .6 quantile of the distances 0, 1, 1, 4, 4 is 1 + .4 * 3.
    assert chosen == pytest.approx(
        {"low": 1 / (1 + np.exp(2.2)), "high": 1 / (1 + np.exp(-2.2)), "share": 0.6}
    )
    assert judge.sends(pairs(5)).tolist() == [False, True, True, True, False]
    before = judge.provenance.fingerprint
    judge.share = 0.1
    judge.prepare(lambda: pairs(5))
    assert judge.sends(pairs(5)).tolist() == [False, False, True, False, False]
    assert judge.provenance.fingerprint != before


def test_certain_scores_give_finite_ones():
    judge = CascadeJudge(Given("cheap", [0.0, 1.0]), Given("sure", [1.0, 0.0]), low=0, high=1)
    assert judge.score(pairs(2)) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("band", "told"),
    [
        ({}, "judge.low and judge.high, or judge.share"),
        ({"low": 0.4, "share": 0.3}, "judge.low and judge.high, or judge.share"),
        ({"low": 0.6, "high": 0.4}, "0 <= judge.low <= judge.high <= 1, got 0.6 and 0.4"),
        ({"low": 0.5, "high": 50}, "got 0.5 and 50"),
    ],
)
def test_a_bad_band_is_refused(band, told):
    with pytest.raises(InputError, match=told):
        CascadeJudge(Given("cheap", []), Given("expensive", []), **band)


def test_generated_traces_have_no_sample_for_a_share():
    judge = CascadeJudge(Given("cheap", []), Given("expensive", []), share=0.3)
    with pytest.raises(InputError, match=r"judge\.share=0\.3 needs recorded traces"):
        judge.prepare(None)


def test_a_cascade_of_folders(tmp_path):
    some = planted(2, 4)
    folder = fitted(some, ("overlaps", "peers"), steps=1).export(tmp_path / "judge")
    judge = load_cascade("lexical", str(folder), share=1.0)
    judge.prepare(lambda: some)
    assert judge.reads_peers
    assert judge.is_symmetric
    assert judge.sends(some).all()
    with pytest.raises(InputError, match="nowhere does not"):
        load_cascade("lexical", "nowhere", share=0.3)
