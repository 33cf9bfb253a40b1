"""The bi-encoder: what it computes, costs, exports, and that training it learns."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import group
from test_features import planted
from tiny_models import save_tiny_bert

from deepprune.core.errors import InputError
from deepprune.core.flops import transformer_flops
from deepprune.core.types import TracePair
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.linear import (
    BiEncoder,
    BiEncoderArchitecture,
    BiEncoderJudge,
    BiEncoderSettings,
    PrefixEncoder,
)
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.metrics import auroc_within
from deepprune.judge.network.backbones import Backbone, Lora, model_size
from deepprune.judge.network.losses import BCELoss
from deepprune.judge.network.module import JudgeModule

ALL = ("cosine", "difference", "product", "sum")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def architecture(source, *, freeze=True, lora=None, **settings):
    backbone = Backbone(source=source, pooling="mean", freeze=freeze, lora=lora)
    return BiEncoderArchitecture(BiEncoderSettings(backbone, **{"max_length": 32, **settings}))


def judge(source, **settings):
    """A judge with a random head."""
    made = architecture(source, **settings)
    model = made.build()
    with torch.no_grad():
        torch.manual_seed(0)
        for p in model.head.parameters():
            p.normal_(std=0.1)
    return made.judge(model, frozenset({"seen"}))


def pairs(n=4):
    return build_pairs(group(["a", "b"] * n, list(range(6, 6 + 2 * n))), FirstTokens(5))


def test_each_prefix_is_embedded_once_and_batches_do_not_matter(source, monkeypatch):
    embedded = []
    embed = BiEncoder.embed
    monkeypatch.setattr(
        BiEncoder,
        "embed",
        lambda self, input_ids, attention_mask: (
            embedded.extend(attention_mask) or embed(self, input_ids, attention_mask)
        ),
    )
    scorer, some = judge(source, interactions=ALL), pairs()
    logits = scorer.logits(some)
    assert len(embedded) == 8  # of 28 pairs
    assert logits.std() > 1e-3
    alone = [judge(source, interactions=ALL).logits([pair])[0] for pair in some[:3]]
    assert np.allclose(alone, logits[:3], atol=1e-5)
    swapped = [TracePair(p.second, p.first) for p in some]
    assert np.allclose(scorer.logits(swapped), logits, atol=1e-5)
    assert scorer.logits([]).shape == (0,)


def test_a_question_costs_one_pass_a_prefix(source):
    scorer, some = judge(source, interactions=ALL), pairs()
    cost = scorer.cost(some)
    lengths = [len(ids) for ids in scorer.encoder.tokenise([p.text for p in _prefixes(some)])[0]]
    size = model_size(scorer.model.encoder)
    passes = sum(transformer_flops(*size, float(n), causal=False) for n in lengths)
    head = 2 * sum(p.numel() for p in scorer.model.head.parameters())
    assert cost.calls == 28
    assert cost.tokens == sum(lengths)
    assert cost.flops == pytest.approx(passes + 28 * head)
    free = judge(source, interactions=())
    assert not free.is_model
    assert free.cost(some).tokens == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"interactions": ALL, "hidden": 3},
        {"interactions": ("product",), "freeze": False},
        {"interactions": ("sum",), "freeze": False, "lora": Lora(r=2, target_modules=["query"])},
        {"interactions": (), "peers": True, "probes": True},
    ],
)
def test_an_export_reproduces_the_scores(settings, source, tmp_path):
    scorer, some = judge(source, **settings), pairs()
    with torch.no_grad():
        for p in scorer.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) / 50)
    scorer.model.standardise(scorer.settings.features(some))
    scorer.calibrate(some)
    read = load_judge(scorer.export(tmp_path / "judge", prefix_rule=FirstTokens(5)), "cpu")
    assert isinstance(read, BiEncoderJudge)
    assert np.allclose(read.score(some), scorer.score(some), atol=1e-6)
    assert read.provenance.fingerprint == scorer.provenance.fingerprint
    assert read.provenance.seen_questions == {"seen"}
    assert (read.needs, read.reads_peers) == (scorer.needs, scorer.reads_peers)
    shorter = replace(scorer.settings, max_length=31)
    other = BiEncoderJudge(scorer.model, PrefixEncoder(shorter), calibration=scorer.calibration)
    assert other.provenance.fingerprint != scorer.provenance.fingerprint


def test_changed_weights_features_and_backbones_are_refused(source, tmp_path):
    folder = judge(source).export(tmp_path / "judge")
    with pytest.raises(InputError, match="was trained from"):
        load_judge(folder, "cpu", backbone="minilm")
    record = json.loads((folder / "judge.json").read_text())
    record["features"]["version"] = -1
    (folder / "judge.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="other features"):
        load_judge(folder)
    folder = judge(source).export(tmp_path / "second")
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="must have sha256"):
        load_judge(folder)
    with pytest.raises(InputError, match="at most the backbone's 512 positions"):
        judge(source, max_length=4096)
    with pytest.raises(ValueError, match="embeds a prefix by the mean"):
        BiEncoderSettings(Backbone(source=source))


@pytest.mark.parametrize("interactions", [(), ALL])
def test_a_planted_signal_is_learnt_also_by_a_fine_tuned_backbone(interactions, source):
    """Features alone, and with a backbone that is trained along."""
    made = architecture(source, freeze=False, interactions=interactions)
    train, test = planted(12), planted(seed=2)
    torch.manual_seed(0)
    model = made.build(made.encoding.encode(train))
    module = JudgeModule(model, BCELoss(), lambda p: torch.optim.AdamW(p, lr=0.01))
    inputs = made.encoding.encode(train)
    labels = torch.tensor([float(p.label) for p in train])
    optimizer = module.configure_optimizers()
    for step in range(60):
        rows = np.random.default_rng(step).choice(len(train), 32)
        loss = module.loss(module(**inputs.batch(rows)), labels[rows], torch.zeros(32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = made.judge(model, frozenset()).score(test)
    questions = [p.first.trace.question.question_id for p in test]
    assert auroc_within(scores, [p.label for p in test], questions) > 0.8


def test_frozen_embeddings_are_computed_before_the_training(source):
    """The batch has vectors in place of tokens, the same that the model would compute."""
    some, rows = pairs(), np.arange(5)
    frozen, tuned = (architecture(source, freeze=f, interactions=ALL) for f in (True, False))
    early, late = (a.encoding.encode(some).batch(rows) for a in (frozen, tuned))
    assert set(early) == {"features", "vectors"}
    assert set(late) == {"features", "input_ids", "attention_mask"}
    model = frozen.build().eval()
    assert torch.allclose(model(**early), model(**late), atol=1e-5)


def _prefixes(some):
    found = {p.trace.sample_id: p for pair in some for p in (pair.first, pair.second)}
    return [replace(p, peers=None) for p in found.values()]
