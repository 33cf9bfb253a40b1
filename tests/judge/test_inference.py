import numpy as np
import pytest
import torch
from tiny_models import tiny_causal_tokenizer, tiny_qwen3_config
from transformers import LlamaConfig, LlamaModel, Qwen3Model

from deepprune.judge.network.backbones import PairClassifier
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.inference import pair_logits, token_batches

FIRSTS = ["we add 3 and 4 to get 7", "let x be 12. then", "so"]
SECONDS = ["the sum is 7", "x = 12 minus 5, wait, that is 7 or", "no", "12", "7 it is."]


def qwen3(**settings):
    torch.manual_seed(0)
    return Qwen3Model(tiny_qwen3_config(**settings))


def llama():
    torch.manual_seed(0)
    return LlamaModel(
        LlamaConfig(
            vocab_size=80,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def sliding():
    """Its second layer sees 16 tokens back."""
    return qwen3(use_sliding_window=True, sliding_window=16, max_window_layers=1)


def encoded(encoder, n_firsts=3):
    ids = [encoder.tokenise(texts) for texts in (["what is it?"], FIRSTS[:n_firsts], SECONDS)]
    return [encoder.join(ids[0][0], first, second) for first in ids[1] for second in ids[2]]


class Counter:
    """Tokens that a backbone reads, and the largest batch with all that its rows look back on."""

    def __init__(self, model):
        self.read, self.largest = 0, 0
        model.encoder.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module, args, inputs):
        self.read += inputs["input_ids"].numel()
        self.largest = max(self.largest, inputs["attention_mask"].numel())


@pytest.mark.parametrize("backbone", [qwen3, llama, sliding])
@pytest.mark.parametrize("max_length", [1024, 190])  # 190: some representatives are cut
def test_a_shared_representative_changes_no_logit(backbone, max_length):
    model = PairClassifier(backbone(), "last").eval()
    torch.nn.init.normal_(model.head.weight)
    encoder = PairEncoder(
        tiny_causal_tokenizer(),
        layout="causal",
        max_length=max_length,
        with_question=True,
    )
    sequences = encoded(encoder)
    with torch.inference_mode():
        separate = [float(model(**encoder.collate([sequence]))) for sequence in sequences]
    for budget in (1, 700, 10**6):
        found = pair_logits(model, encoder, sequences, tokens_per_batch=budget)
        assert np.allclose(found, separate, atol=1e-5)
    assert np.std(separate) > 1e-2


def test_the_representative_is_read_once():
    model = PairClassifier(qwen3(), "last").eval()
    encoder = PairEncoder(tiny_causal_tokenizer(), layout="causal", max_length=1024)
    sequences = encoded(encoder, 1)
    n_head = sequences[0].n_head
    counter = Counter(model)
    pair_logits(model, encoder, sequences, tokens_per_batch=1)
    assert counter.read == n_head + sum(len(s.input_ids) - n_head for s in sequences)
    counter = Counter(model)
    pair_logits(model, encoder, sequences, tokens_per_batch=400)
    assert max(len(s.input_ids) for s in sequences) < counter.largest <= 400
    done: list[int] = []
    pair_logits(model, encoder, sequences, tokens_per_batch=400, on_batch=done.append)
    assert sum(done) == len(sequences)


def test_batches_hold_so_many_tokens_and_little_padding():
    lengths = [5, 9, 1, 5, 9, 30]
    assert token_batches(lengths, 20) == [[5], [1, 4], [0, 3, 2]]
    assert token_batches([], 20) == []
