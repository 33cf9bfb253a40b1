"""A language model's own head: untrained as a judge, and trained, exported and read back."""

import json

import numpy as np
import pytest
import torch
from builders import group
from tiny_models import save_tiny_bert, save_tiny_qwen3, save_tiny_qwen3_lm

from deepprune.core.errors import InputError
from deepprune.core.types import TracePair
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.loading import load_judge
from deepprune.judge.network.backbones import Backbone, Lora, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import CrossEncoderJudge
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.words import first_words
from deepprune.judge.network.zero_shot import zero_shot_judge

PAIRS = build_pairs(group(["a", "b"] * 3, [6, 8, 10, 12, 14, 16]), FirstTokens(5))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny_qwen3_lm(tmp_path_factory.mktemp("tiny") / "qwen3")


def zero_shot(source, **settings):
    return zero_shot_judge(source, **{"dtype": "float32", "device": "cpu", **settings})


def test_a_zero_shot_judge_has_seen_nothing(source):
    judge = zero_shot(source)
    scores = judge.score(PAIRS)
    assert scores.shape == (15,)
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.std() > 1e-5
    assert judge.provenance.seen_questions == frozenset()
    assert judge.provenance.name == "zero-shot qwen3 (training unknown)"
    assert (judge.pair_prices(PAIRS).flops > 0).all()


def test_its_fingerprint_follows_from_weights_and_prompt(source, tmp_path):
    first = zero_shot(source).provenance.fingerprint
    assert zero_shot(source).provenance.fingerprint == first
    assert zero_shot(source, symmetric=True).provenance.fingerprint != first
    prompts = {
        zero_shot(source, chat_template=chat, with_question=question).provenance.fingerprint
        for chat in (False, True)
        for question in (False, True)
    }
    assert len(prompts) == 4
    other = save_tiny_qwen3_lm(tmp_path / "qwen3")
    template = tmp_path / "qwen3" / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "model"))
    assert zero_shot(other).provenance.fingerprint not in prompts


def test_a_judge_that_others_trained_is_asked_as_it_was_trained(source, tmp_path):
    """Its answers are 1 and 2, so that swapping them turns every score around."""
    asked = {"template": "{question} {first} {second} 1 or 2", "answer_words": ["1", "2"]}
    judge = zero_shot(source, **asked)
    swapped = zero_shot(source, **{**asked, "answer_words": ["2", "1"]})
    assert np.allclose(judge.score(PAIRS), 1 - swapped.score(PAIRS), atol=1e-6)
    assert judge.provenance.fingerprint != swapped.provenance.fingerprint
    read = CrossEncoderJudge.load(judge.export(tmp_path / "judge"), device="cpu")
    assert read.encoder.settings == judge.encoder.settings
    assert read.encoder.settings["answer_words"] == ["1", "2"]
    with pytest.raises(InputError, match="must be two words"):
        zero_shot(source, answer_words=["same"])


def test_the_first_words_have_the_odds_of_the_score(source):
    judge = zero_shot(source)
    found = first_words(judge, PAIRS[:3], len(judge.encoder.tokenizer))
    for words, score in zip(found, judge.score(PAIRS[:3]), strict=True):
        chances = [chance for _, chance in words]
        assert chances == sorted(chances, reverse=True)
        assert 0.5 < sum(chances) < 1  # the model has rows beyond those of its tokenizer
        yes, no = (dict(words)[word] for word in "YN")
        assert yes / (yes + no) == pytest.approx(score, abs=1e-4)


def test_both_orders_are_averaged(source):
    judge = zero_shot(source, symmetric=True)
    swapped = [TracePair(pair.second, pair.first) for pair in PAIRS]
    assert np.allclose(judge.score(PAIRS), judge.score(swapped), atol=1e-12)


def test_what_it_needs_is_said(source, tmp_path):
    with pytest.raises(InputError, match=r"judge: .*has none: set it to false"):
        zero_shot(save_tiny_qwen3(tmp_path / "base"))
    with pytest.raises(InputError, match="has no such head"):
        zero_shot(str(tmp_path / "base"), chat_template=False)
    with pytest.raises(InputError, match="a folder, or a name on the hub"):
        zero_shot(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("lora", [None, Lora(r=2)])
def test_an_export_of_a_generative_judge_reproduces_its_scores(lora, source, tmp_path):
    backbone = Backbone(source=source, pooling="last", head="generative", lora=lora)
    model = load_model(backbone)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    encoder = PairEncoder(
        load_tokenizer(backbone), layout="causal", chat_template=True, generative=True
    )
    settings = {"device": "cpu", "precision": "float32"}
    judge = CrossEncoderJudge(model, encoder, backbone, symmetric=True, **settings)
    folder = judge.export(tmp_path / "judge")
    read = CrossEncoderJudge.load(folder, **settings)
    assert read.is_symmetric
    assert read.backbone.head == "generative"
    assert read.encoder.settings == encoder.settings
    assert np.allclose(read.score(PAIRS), judge.score(PAIRS), atol=1e-6)
    assert read.provenance.fingerprint == judge.provenance.fingerprint
    values = json.loads((folder / "judge.json").read_text())
    texts = values["settings"]["encoder"].pop("texts")
    assert texts[-1].endswith("Answer Yes or No.\nassistant: ")
    values["settings"]["encoder"]["template"] = texts  # as they were called
    (folder / "judge.json").write_text(json.dumps(values))
    assert CrossEncoderJudge.load(folder, **settings).encoder.settings == encoder.settings


def test_an_export_from_before_heads_and_templates_is_read(tmp_path):
    backbone = Backbone(source=save_tiny_bert(tmp_path / "bert"), pooling="mean")
    encoder = PairEncoder(load_tokenizer(backbone), layout="bert")
    judge = CrossEncoderJudge(load_model(backbone), encoder, backbone, device="cpu")
    folder = judge.export(tmp_path / "judge")
    values = json.loads((folder / "judge.json").read_text())
    del values["settings"]["backbone"]["head"]
    for name in ("chat_template", "generative", "answer_words", "texts"):
        del values["settings"]["encoder"][name]
    (folder / "judge.json").write_text(json.dumps(values))
    assert np.allclose(load_judge(folder, "cpu").score(PAIRS), judge.score(PAIRS), atol=1e-6)


def test_an_export_in_bfloat16_scores_as_before(source, tmp_path):
    judge = zero_shot_judge(source, dtype="bfloat16", device="cpu")
    read = CrossEncoderJudge.load(judge.export(tmp_path / "judge"), device="cpu")
    assert read.model.encoder.rotary_emb.inv_freq.dtype == torch.float32
    assert np.array_equal(judge.score(PAIRS), read.score(PAIRS))
