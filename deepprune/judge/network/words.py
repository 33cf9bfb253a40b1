"""Most likely first words of a generative judge, to check its template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deepprune.core.errors import InputError
from deepprune.core.types import TracePair
from deepprune.judge.network.cross_encoder import CrossEncoderJudge
from deepprune.judge.network.packing import on_device, pad


@torch.no_grad()
def first_words(
    judge: CrossEncoderJudge, pairs: Sequence[TracePair], n: int = 5
) -> list[list[tuple[str, float]]]:
    """Return the ``n`` most likely tokens after each pair, with their probabilities.

    Raises:
        InputError: If the judge is not generative, or has an output layer of its own: an export
            keeps of it what tells the two answer words apart.
    """
    encoder: Any = judge.model.encoder
    if not judge.backbone.is_generative or not encoder.config.tie_word_embeddings:
        raise InputError(
            "words=true needs judges with model.backbone.head=generative whose output layer is "
            "their embeddings (tie_word_embeddings), or their words are not in the export: leave "
            f"it out for {judge.provenance.name}."
        )
    inputs = judge.encoder.encode(pairs)
    embeddings = encoder.get_input_embeddings().weight.float()
    found = []
    for texts in inputs.texts.tolist():
        tokens = on_device(pad([inputs.sequence(texts)]), judge.device)
        hidden = encoder(**tokens).last_hidden_state[0, -1]
        top = torch.softmax(embeddings @ hidden.float(), dim=0).topk(n)
        words = map(judge.encoder.tokenizer.decode, top.indices.tolist())
        found.append(list(zip(words, top.values.tolist(), strict=True)))
    return found
