"""Which pairs the expensive judge of a cascade sees, what comes of it, and its export."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from builders import group, with_forced_answers

from deepprune.core.errors import InputError
from deepprune.core.protocols import Need
from deepprune.core.types import Prefix, TracePair
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.judge.boosting import Boosting
from deepprune.judge.cascade import Band, Cascade, CascadeJudge, choose_band, merge
from deepprune.judge.features.forced_answers import LogisticRegression, ProbeJudge
from deepprune.judge.features.overlaps import FeaturesJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.metrics import auroc_within


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


def forced(n_questions=6, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for q in range(n_questions):
        answers = ["a", "b", *rng.choice(list("ab"), 4).tolist()]
        traces = group(answers, 30, name=f"{seed}/{q}")
        guesses = [[int(rng.integers(2)), t.answer_class] for t in traces.traces]
        prefixes = [
            Prefix(t, 25, False) for t in with_forced_answers(traces, guesses, every=10).traces
        ]
        made += [TracePair(a, b) for i, a in enumerate(prefixes) for b in prefixes[i + 1 :]]
    return made


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A features and a probe judge, as two runs have exported them."""
    folder, train = tmp_path_factory.mktemp("runs"), forced()
    settings = Boosting(trees=5, leaves=4, learning_rate=0.1, l2=1.0, min_leaf=5)
    seen = frozenset({"question"})
    cheap = FeaturesJudge.fit(train, settings, seen_questions=seen)
    expensive = ProbeJudge.fit(train, LogisticRegression(0.1), seen_questions=seen)
    return {
        "cheap": str(cheap.export(folder / "one" / "judge", training={"pairs": 3})),
        "expensive": str(expensive.export(folder / "two" / "judge")),
    }


def test_the_expensive_judge_is_asked_and_paid_within_the_band_alone():
    """Log-odds of .5 and of .8 are 0 and log 4; their mean is log 2, a score of 2/3."""
    cheap = Given("cheap", [0.1, 0.5, 0.7, 0.9], price=1)
    expensive = Given("expensive", [0.8] * 4, price=100)
    judge = CascadeJudge(cheap, expensive, 0.5, 0.6)
    assert judge.score(pairs()) == pytest.approx([0.1, 2 / 3, 0.7, 0.9])
    assert expensive.asked == [2]
    assert judge.sends(pairs()).tolist() == [False, True, False, False]
    assert judge.pair_prices(pairs()).tokens.tolist() == [1, 101, 1, 1]
    assert judge.cost(pairs()).flops == 10 * (4 + 100)
    assert cheap.asked == [1, 2, 3, 4]  # its scores are remembered
    assert judge.provenance.seen_questions == {"cheap", "expensive"}
    none, all_ = CascadeJudge(cheap, expensive, 0, 0), CascadeJudge(cheap, expensive, 0, 1)
    assert not none.sends(pairs()).any()
    assert all_.sends(pairs()).all()
    prints = {j.provenance.fingerprint for j in (judge, none, all_)}
    assert len(prints) == 3


def test_certain_scores_have_finite_log_odds():
    cheap, expensive = np.array([0.0, 1.0, 1.0]), np.array([1.0])
    merged = merge(cheap, expensive, np.array([True, False, False]))
    assert np.isfinite(merged).all()
    assert merged[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.4), (-0.1, 0.5), (0.5, 50)])
def test_a_band_is_a_part_of_all_scores(low, high):
    with pytest.raises(ValueError, match="0 <= low <= high <= 1, got"):
        Band(low, high)


def scored(n=1000, seed=0):
    """The cheap judge errs where its scores lie between .3 and .6, the expensive one nowhere."""
    rng = np.random.default_rng(seed)
    labels, questions = rng.integers(2, size=n), rng.integers(8, size=n)
    unsure = rng.random(n) < 0.3
    sure = np.where(labels == 1, rng.uniform(0.6, 1, n), rng.uniform(0, 0.3, n))
    cheap = np.where(unsure, rng.uniform(0.3, 0.6, n), sure)
    expensive = np.where(labels == 1, 0.9, 0.1)
    return cheap, expensive, labels, questions


def test_the_band_is_where_the_cheap_judge_errs():
    cheap, expensive, labels, questions = scored()
    band = choose_band(cheap, expensive, labels, questions, tolerance=0.0)
    assert 0.25 < band.low <= 0.31
    assert 0.59 <= band.high < 0.65
    sent = band.has(cheap)
    merged = merge(cheap, expensive[sent], sent)
    assert auroc_within(merged, labels, questions) > 0.99 > auroc_within(cheap, labels, questions)
    narrower = choose_band(cheap, expensive, labels, questions, tolerance=0.02)
    assert 0 < narrower.has(cheap).sum() < sent.sum()


def test_an_expensive_judge_that_is_no_better_is_never_asked():
    cheap, expensive, labels, questions = scored()
    assert choose_band(expensive, cheap, labels, questions, tolerance=0.0) == Band(0, 0)
    with pytest.raises(InputError, match="no validation question has pairs of both classes"):
        choose_band(cheap, expensive, np.ones(len(labels)), questions, tolerance=0.0)


def test_an_export_holds_both_judges(exports, tmp_path):
    val = forced(seed=1)
    judge = CascadeJudge.fit(
        val, Cascade(**exports, tolerance=0.0), seen_questions=frozenset({"of the band"})
    )
    judge.calibrate(val)
    assert judge.sends(val).any()  # forced answers tell what shared numbers do not
    folder = judge.export(tmp_path / "new" / "judge")
    assert (folder / "cheap" / "trees.safetensors").exists()
    copied = json.loads((folder / "cheap" / "judge.json").read_text())
    assert copied["training"] == {"pairs": 3}
    moved = shutil.move(folder, tmp_path / "elsewhere")
    loaded, test = load_judge(moved), forced(seed=2)
    assert (loaded.score(test) == judge.score(test)).all()
    assert loaded.provenance.fingerprint == judge.provenance.fingerprint
    assert loaded.provenance.seen_questions == {"question", "of the band"}
    assert loaded.needs == {Need.TEXT, Need.FORCED_ANSWERS}
    assert loaded.is_symmetric
    assert not loaded.is_model
    load_judge(moved, device="cuda")  # nothing in it needs a device
    (moved / "judge.json").write_text(json.dumps(copied | {"kind": "cascade"}))
    with pytest.raises(InputError, match="damaged"):
        load_judge(moved)


def test_a_judge_that_was_recalibrated_is_exported_as_it_is_now(exports, tmp_path):
    cheap, expensive = (load_judge(exports[part]) for part in ("cheap", "expensive"))
    before = expensive.provenance.fingerprint
    expensive.calibrate(forced(seed=3))
    folder = CascadeJudge(cheap, expensive, 0.2, 0.8).export(tmp_path / "judge")
    found = json.loads((folder / "expensive" / "judge.json").read_text())["fingerprint"]
    assert found == expensive.provenance.fingerprint != before


def test_an_untrained_judge_is_not_exported(exports, tmp_path):
    judge = CascadeJudge(Given("table", []), load_judge(exports["cheap"]), 0.2, 0.8)
    with pytest.raises(InputError, match="only trained judges are exported, and 'table' is none"):
        judge.export(tmp_path / "judge")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seen", "tested", "said"),
    [
        ({"val"}, {"new", "question"}, "0 of the 1 .*, 1 of the 2 test questions and 0 others"),
        ({"val", "question"}, {"new"}, "1 of the 2 .*, 0 of the 1 test questions and 0 others"),
    ],
)
def test_a_judge_of_another_split_is_refused(seen, tested, said, exports):
    """A question that a judge was trained on may neither be tested nor choose the band."""
    cascade = Cascade(**exports, tolerance=0.01)
    assert cascade.needs == {Need.TEXT, Need.FORCED_ANSWERS}
    cascade.check_unseen(frozenset({"question"}), frozenset({"new"}))
    cascade.check_unseen(frozenset({"other"}), frozenset({"new"}))
    with pytest.raises(InputError, match=f"model.cheap=.* was fitted with {said}"):
        cascade.check_unseen(frozenset(seen), frozenset(tested))


def test_the_calibration_asks_for_what_the_band_has_not_been_chosen_on(exports, monkeypatch):
    val, asked = forced(seed=1), {FeaturesJudge: 0, ProbeJudge: 0}
    val += [TracePair(replace(p.first, is_finished=True), p.second) for p in forced(seed=4)]
    for kind in asked:

        def logits(self, pairs, kind=kind, whole=kind.logits):
            asked[kind] += len(pairs)
            return whole(self, pairs)

        monkeypatch.setattr(kind, "logits", logits)
    judge = CascadeJudge.fit(val, Cascade(**exports, tolerance=0.0))
    assert asked == {FeaturesJudge: len(val) // 2, ProbeJudge: len(val) // 2}
    judge.calibrate(val)
    sent = judge.sends(val)[len(val) // 2 :].sum()
    assert asked == {FeaturesJudge: len(val), ProbeJudge: len(val) // 2 + sent}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tolerance": -0.1}, "model.tolerance must not be negative, got -0.1"),
        ({"expensive": "nowhere"}, "nowhere does not"),
    ],
)
def test_what_is_wrong_shows_before_traces_are_read(changes, said, exports):
    with pytest.raises(InputError, match=said):
        Cascade(**{**exports, "tolerance": 0.01, **changes})
