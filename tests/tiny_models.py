"""Random models of a few thousand weights, saved like those of the hub."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

_CHARACTERS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?:\n"]


def _tokenizer(special, **roles):
    """One character, one token."""
    vocabulary = {token: i for i, token in enumerate((*special, *_CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=special[1], **roles)


def tiny_bert_tokenizer():
    return _tokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def tiny_causal_tokenizer():
    return _tokenizer(["<pad>", "<unk>", "<eos>", "<spare>"], pad_token="<pad>", eos_token="<eos>")


def tiny_qwen3_config(**settings):
    return Qwen3Config(
        **{
            "vocab_size": 80,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "max_position_embeddings": 2048,
            "use_cache": False,
            **settings,
        }
    )


def save_tiny_qwen3(folder, **settings):
    """A random Qwen3 of two layers as a local folder."""
    torch.manual_seed(0)
    Qwen3Model(tiny_qwen3_config(**settings)).save_pretrained(folder)
    tiny_causal_tokenizer().save_pretrained(folder)
    return str(folder)


def save_tiny_qwen3_lm(folder):
    """The same with a language-model head, tied, and a chat template."""
    torch.manual_seed(0)
    Qwen3ForCausalLM(tiny_qwen3_config(tie_word_embeddings=True)).save_pretrained(folder)
    tokenizer = tiny_causal_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_tiny_bert(folder):
    """A random BERT of two layers as a local folder."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=80,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)
    tiny_bert_tokenizer().save_pretrained(folder)
    return str(folder)
