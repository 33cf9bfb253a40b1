"""Packed batches against pairs read one by one: tiny random models of three architectures."""

import functools

import numpy as np
import pytest
import torch
from tiny_models import tiny_causal_tokenizer, tiny_qwen3_config
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model, Qwen3Model

from deepprune.judge.network.backbones import Backbone, Lora, build_classifier
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.inference import head_batches, pair_logits, token_batches
from deepprune.judge.network.packing import PACKED, PairTokens, pack, pad, unpack

SIZES = {
    "vocab_size": 80,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "llama": lambda: LlamaModel(LlamaConfig(**SIZES)),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3Model(tiny_qwen3_config()),
}


def drawn_pairs(*heads):
    """Pairs with as many candidates of each head as given; all lengths differ."""
    rng = np.random.default_rng(0)
    pairs = []
    for n in heads:
        head = rng.integers(4, 70, rng.integers(5, 60)).tolist()
        tails = [rng.integers(4, 70, rng.integers(1, 50)).tolist() for _ in range(n)]
        pairs += [PairTokens(head + tail, len(head)) for tail in tails]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def classifier(name="llama", encoder=None, **backbone):
    torch.manual_seed(0)
    encoder = encoder or MODELS[name]()
    model = build_classifier(encoder, Backbone(pooling="last", **backbone)).eval()
    with torch.no_grad():
        model.head.weight.normal_()
        for parameter_name, p in model.named_parameters():
            if "lora_B" in parameter_name:
                p.normal_(std=0.1)
    return model


def logits_and_gradients(model, inputs, weights):
    model.train().zero_grad()
    logits = model(**inputs)
    (logits * weights).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return logits.detach(), torch.cat(gradients)


@pytest.mark.parametrize("settings", [{}, {"lora": Lora(r=2), "gradient_checkpointing": True}])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_those_of_single_pairs(name, settings):
    model = classifier(name, **settings)
    for heads in ((4, 4), (1, 1, 1, 1), (1, 5, 2)):
        pairs = drawn_pairs(*heads)
        assert model.reads_packed(pairs)
        weights = torch.randn(len(pairs))
        packed = logits_and_gradients(model, pack(pairs), weights)
        alone = logits_and_gradients(model, pad(pairs), weights)
        for found, expected in zip(packed, alone, strict=True):
            assert ((found - expected).norm() / expected.norm()).item() < 1e-5


def test_a_row_has_each_head_once_and_no_padding():
    pairs = drawn_pairs(3, 1)
    inputs = pack(pairs)
    heads = {tuple(pair.head) for pair in pairs}
    n = sum(map(len, heads)) + sum(len(pair.tail) for pair in pairs)
    assert inputs["input_ids"].shape == inputs["position_ids"].shape == (1, n)
    assert unpack(inputs) == pairs


def test_other_inputs_are_read_as_by_sdpa():
    inputs = pad(drawn_pairs(3))
    ours = MODELS["llama"]().eval()
    plain = ours(**inputs).last_hidden_state
    ours.set_attn_implementation(PACKED)
    assert torch.equal(ours(**inputs).last_hidden_state, plain)
    assert PACKED not in ours.config.to_json_string(use_diff=False)


def test_a_model_that_cannot_share_reads_pair_by_pair_and_says_so(caplog):
    pairs = drawn_pairs(4)
    window = tiny_qwen3_config(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    eager = MODELS["llama"]()
    eager.set_attn_implementation("eager")
    wrong = MODELS["llama"]()  # as though a model ignored what it is told
    for layer in wrong.layers:
        layer.self_attn.forward = functools.partial(_without_mask, layer.self_attn.forward)
    for encoder, said in [
        (Qwen3Model(window), "got sliding_attention"),
        (eager, "got eager"),
        (wrong, "hidden states differ by"),
    ]:
        model = classifier(encoder=encoder)
        caplog.clear()
        assert torch.equal(model(**pack(pairs)), model(**pad(pairs)))
        assert torch.equal(model(**pack(pairs)), model(**pad(pairs)))
        (line,) = caplog.messages
        assert line.startswith("pairs are read one by one: ")
        assert said in line


def _without_mask(forward, *arguments, attention_mask, **settings):
    if "packing" in settings:
        attention_mask = torch.ones_like(attention_mask)
    return forward(*arguments, attention_mask=attention_mask, **settings)


@pytest.mark.parametrize("max_length", [1024, 190])  # 190: some representatives are cut
@pytest.mark.parametrize("budget", [1, 700, 10**6])
def test_scoring_is_that_of_single_pairs(max_length, budget):
    model = classifier()
    encoder = PairEncoder(
        tiny_causal_tokenizer(), layout="causal", max_length=max_length, with_question=True
    )
    question, *texts = encoder.tokenise(
        ["what is it?", "we add 3 and 4 to get 7", "let x be 12. then", "so", "12", "no, 7 it is"]
    )
    pairs = [encoder.join(question, a, b) for a in texts for b in texts if a is not b]
    with torch.inference_mode():
        alone = [float(model(**pad([pair]))) for pair in pairs]
    read = []
    model.encoder.register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    done = []
    model.reads_packed(pairs)
    read.clear()
    found = pair_logits(model, encoder, pairs, tokens_per_batch=budget, on_batch=done.append)
    assert np.allclose(found, alone, atol=1e-5)
    assert np.std(alone) > 1e-2
    assert sum(done) == len(pairs)
    heads = {tuple(pair.head) for pair in pairs}
    once = sum(map(len, heads)) + sum(len(pair.tail) for pair in pairs)
    longest = max(len(pair.input_ids) for pair in pairs)
    assert read == [once] if budget == 10**6 else max(read) <= max(budget, longest)


def test_a_head_has_its_rows_in_one_batch_where_they_fit():
    """Heads of 50, 40 and 3 tokens with 3, 2 and 12 tails of 10."""
    pairs = [
        PairTokens([h] * (n + 10), n)
        for h, n, k in ((1, 50, 3), (2, 40, 2), (3, 3, 12))
        for _ in range(k)
    ]
    assert head_batches(pairs, 80) == [[0, 1, 2], [3, 4], [*range(5, 12)], [*range(12, 17)]]
    assert head_batches(pairs, 140) == [[0, 1, 2, 3, 4], [*range(5, 17)]]


def test_batches_hold_so_many_tokens_and_little_padding():
    lengths = [5, 9, 1, 5, 9, 30]
    assert token_batches(lengths, 20) == [[5], [1, 4], [0, 3, 2]]
    assert token_batches([], 20) == []
