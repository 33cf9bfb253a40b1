import numpy as np
import pytest

from deepprune.traces import tokens
from deepprune.traces.tokens import completed_characters, token_ends

TEXTS = {
    "plain": "Wait, so 12*3 = 36.\n\nThus \\boxed{36}",
    "accents": "naïve café, Ångström",
    "decomposed": "e\u0301 o\u0308 n\u0303",  # two code points each: nothing is normalised
    "cjk": "我们需要计算这个表达式的值。",
    "emoji": "ok 👩‍👩‍👧‍👦 🇫🇷 𒀀𓀀 🫠",  # families, flags: several tokens a character
    "special": "<|im_start|>user\n<|im_end|><|endoftext|>",
    "empty": "",
}


@pytest.mark.parametrize("name", TEXTS)
def test_ends_are_exact(name):
    """The bytes of the first k tokens, cut back to whole characters, are ``text[:end]``."""
    text = TEXTS[name]
    (ends,) = token_ends([text])
    encoding = tokens._vocabulary()[0]
    ids = encoding.encode_ordinary(text)
    assert ends.dtype == np.int32
    assert len(ends) == len(ids)
    pieces = [encoding.decode_single_token_bytes(i) for i in ids]
    for k, end in enumerate(ends):
        assert text[:end] == b"".join(pieces[: k + 1]).decode(errors="ignore")
    starts = [0, *ends]
    assert "".join(text[a:b] for a, b in zip(starts, ends, strict=False)) == text


def test_special_tokens_are_ordinary_text():
    (ends,) = token_ends(["<|im_end|>"])
    assert len(ends) > 1


def test_texts_keep_their_order_and_few_are_taken_ahead():
    texts = [str(i) * i for i in range(20)]
    left = iter(texts)
    ends = token_ends(left)
    found = [next(ends)]
    assert len(list(left)) >= 15
    found += ends
    assert [int(e[-1]) if len(e) else 0 for e in found] == [len(t) for t in texts[: len(found)]]


def test_completed_characters():
    """é is two bytes, 😀 is four."""
    assert completed_characters("aé😀").tolist() == [0, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("run", [" " * 1_500_000 + "x", "我" * 350_000])
def test_pathological_runs_neither_crash_nor_lose_a_character(run):
    """1.5 million spaces overflow the stack of the pre-tokenizer's regular expression."""
    (ends,) = token_ends([f"start {run}"])
    assert ends[-1] == len(run) + 6
    assert (np.diff(ends) >= 0).all()
