"""Overlap features, boosted trees on them, and the judge that they make."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from builders import trace
from hydra import compose, initialize_config_dir
from sklearn.ensemble import HistGradientBoostingClassifier

from deepprune.cli import config_folder
from deepprune.config import build
from deepprune.config.schemas import register
from deepprune.core.errors import InputError
from deepprune.core.types import Prefix, Question, TracePair
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.boosting import Boosting, Trees, question_balanced_weights
from deepprune.judge.features.overlaps import NAMES, FeaturesJudge, pair_features
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.metrics import auroc_within

SETTINGS = Boosting(trees=20, leaves=6, learning_rate=0.1, l2=1.0, min_leaf=10)


def prefix(text, n_tokens=None, *, question="q", sample=0, answer_class=0, finished=False):
    made = trace(Question("toy", question, "What?", "1"), sample, text, "1", answer_class)
    return Prefix(made, made.n_tokens if n_tokens is None else n_tokens, finished)


def feature(name, *pairs):
    return pair_features(pairs)[:, NAMES.index(name)].tolist()


def planted(n_questions=20, n_traces=8, seed=0):
    """Pairs of traces that name their answer class by a number of their own, among noise."""
    rng = np.random.default_rng(seed)
    pairs = []
    for q in range(n_questions):
        prefixes = []
        for sample in range(n_traces):
            answer_class = int(rng.integers(2))
            words = [*rng.integers(10, 99, 6).astype(str), f"{100 * q + answer_class + 1000}"]
            text = " wait so ".join(rng.permutation(words))
            prefixes.append(
                prefix(text, question=f"{seed}/{q}", sample=sample, answer_class=answer_class)
            )
        pairs += [TracePair(a, b) for i, a in enumerate(prefixes) for b in prefixes[i + 1 :]]
    return pairs


@pytest.fixture(scope="module")
def judge():
    return FeaturesJudge.fit(planted(), SETTINGS, seen_questions=frozenset({"seen"}))


def test_features_by_hand():
    r"""Numbers {3, 4, 7} and {3, 4, 8}; bigrams {3 4, 4 7} and {3 4, 4 8}; \frac is shared."""
    pair = TracePair(prefix(r"Wait, 3 + 4 = 7 \frac x"), prefix(r"hmm 3 + 4 = 8 but \frac y"))
    expected = {
        "numbers_jaccard": 2 / 4,
        "numbers_containment": 2 / 3,
        "number_bigrams_jaccard": 1 / 3,
        "equations_jaccard": 0,
        "rare_numbers_jaccard": 2 / 4,  # each appears once
        "identifiers_jaccard": 1 / 3,
        "wait_low": 0,
        "wait_high": 1,
        "but_difference": 1,
        "numbers_low": 3,
        "tokens_low": 8,
        "tokens_difference": 1,
    }
    assert {name: feature(name, pair)[0] for name in expected} == pytest.approx(expected)
    same = TracePair(prefix("one two three four"), prefix("two three four five"))
    assert feature("word_trigrams_jaccard", same) == [pytest.approx(1 / 3)]
    nothing = pair_features([TracePair(prefix("", 0), prefix("", 0))])
    assert nothing.tolist() == [[0] * len(NAMES)]
    assert pair_features([]).shape == (0, len(NAMES))


def test_a_swapped_pair_has_the_same_features(judge):
    pairs = planted(3, seed=1)
    swapped = [TracePair(p.second, p.first) for p in pairs]
    assert (pair_features(pairs) == pair_features(swapped)).all()
    assert (judge.score(pairs) == judge.score(swapped)).all()


def test_nothing_after_the_prefix_matters(judge):
    """Traces that go on differently, or not at all, have the features of their first five words."""
    begun, other = "first 12 then 13 wait", prefix("12 and 14", sample=1)
    rows = [
        pair_features([TracePair(prefix(begun + rest, 5), other)])
        for rest in ("", " hmm 14 14", " so 7 = 7 " * 40)
    ]
    assert (rows[0] == rows[1]).all()
    assert (rows[0] == rows[2]).all()


def test_question_balanced_weights_by_hand():
    """Question a has 3 same and 1 different, b 1 same: a's classes weigh 1/2 each, b weighs 1.

    So a same pair of a weighs 1/6, its different pair 1/2 and b's pair 1; their mean is 2/5.
    """
    weights = question_balanced_weights([1, 1, 1, 0, 1], ["a", "a", "a", "a", "b"])
    assert weights == pytest.approx(np.array([1 / 6, 1 / 6, 1 / 6, 1 / 2, 1]) / (2 / 5))


def test_the_trees_score_as_scikit_learn_does_also_after_export(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 5)).round(1)  # values on the thresholds themselves
    y = (x[:, 0] * x[:, 1] + rng.normal(size=3000) > 0).astype(int)
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15).fit(x, y)
    trees = Trees.of(model)
    trees.save(tmp_path / "trees.safetensors")
    for found in (trees, Trees.load(tmp_path / "trees.safetensors")):
        scores = 1 / (1 + np.exp(-found.logits(x)))
        assert np.abs(scores - model.predict_proba(x)[:, 1]).max() < 1e-9
    assert Trees.load(tmp_path / "trees.safetensors").digest == trees.digest
    with pytest.raises(ValueError, match="no trees"):
        replace(trees, left=trees.left - 1)  # a walk that might never end


def test_a_planted_signal_is_learnt(judge):
    pairs = planted(seed=2)
    labels = [p.label for p in pairs]
    questions = [p.first.trace.question.question_id for p in pairs]
    before = judge.logits(pairs)
    assert auroc_within(before, labels, questions) > 0.8
    balanced = FeaturesJudge.fit(planted(), replace(SETTINGS, question_balanced=False))
    assert (balanced.logits(pairs) != before).any()


def test_an_export_is_read_back_without_scikit_learn_torch_or_pickle(judge, tmp_path):
    pairs = planted(4, seed=3)
    judge = pickle.loads(pickle.dumps(judge))  # as worker processes get it
    judge.calibrate(planted(4, seed=4))
    judge.export(tmp_path / "judge", prefix_rule=FirstTokens(5))
    assert {p.name for p in (tmp_path / "judge").iterdir()} == {"judge.json", "trees.safetensors"}
    loaded = load_judge(tmp_path / "judge")
    assert (loaded.score(pairs) == judge.score(pairs)).all()
    assert replace(loaded.provenance, path=None) == judge.provenance
    assert loaded.provenance.seen_questions == {"seen"}
    cost = loaded.cost([*pairs, *(TracePair(p.second, p.first) for p in pairs)])
    assert (cost.calls, cost.tokens, cost.flops) == (len(pairs), 0, 0)
    code = (
        "import sys; from deepprune.judge.loading import load_judge; load_judge(sys.argv[1]); "
        "sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "judge"], check=True)


def test_an_export_that_is_not_ours_is_refused(judge, tmp_path):
    folder = judge.export(tmp_path / "judge")
    with pytest.raises(InputError, match="no backbone and runs on the CPU, got backbone 'minilm'"):
        load_judge(folder, backbone="minilm")
    record = json.loads((folder / "judge.json").read_text())
    for change, said in (
        ({"kind": "forest"}, "got 'forest'"),
        ({"features": {"version": 0}}, "other features"),
        ({"trees_sha256": "0"}, "must have sha256 0"),
        ({"calibration": {"scale": 0}}, "damaged"),
    ):
        (folder / "judge.json").write_text(json.dumps(record | change))
        with pytest.raises(InputError, match=said):
            load_judge(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trees": 0}, "model.trees must be at least 1, got 0"),
        ({"leaves": 1}, "model.leaves must be at least 2, got 1"),
        ({"learning_rate": 0.0}, "model.learning_rate must be above 0, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.trees=0", "model.trees must be at least 1, got 0"),
        ("data.pairs_per_question=0", "data.pairs_per_question must be at least 1, got 0"),
    ],
)
def test_a_wrong_value_is_refused_before_traces_are_read(override, said):
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=["model=features", "traces=missing", override])
    with pytest.raises(InputError, match=said):
        build.fit_parts(config)


def test_the_command_trains_reports_and_sweeps_and_evaluate_reads_the_export(tmp_path):
    small = ["sweep.questions=2", "sweep.traces=4", "sweep.resamples=1", "logger=none"]
    evaluate = ["evaluate", "judge=trained", "judge.path=r/judge", *small, "hydra.run.dir=e"]
    train = ["train", "model=features", "prefix.k=64", *small, "hydra.run.dir=r"]
    for command in (train, evaluate):
        done = subprocess.run(
            [sys.executable, "-m", "deepprune.cli", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "r" / "judge_report.json").read_text())
    assert set(report) == {"features", "lexical"}
    assert (tmp_path / "e" / "results.jsonl").exists()
