"""The zero-shot judge: an untrained language model that answers yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from deepprune.core.errors import InputError
from deepprune.core.options import Count, checked
from deepprune.judge.network.backbones import Backbone, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import CrossEncoderJudge
from deepprune.judge.network.encoding import ANSWER_WORDS, PairEncoder


@checked
def zero_shot_judge(
    source: str = "Qwen/Qwen3-4B-Instruct-2507",
    *,
    revision: str | None = None,
    max_length: Count = 2048,
    with_question: bool = True,
    chat_template: bool = True,
    template: str | None = None,
    answer_words: Sequence[str] = ANSWER_WORDS,
    symmetric: bool = False,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> CrossEncoderJudge:
    """Build a cross-encoder with the language model's own head, the paper's zero-shot baseline.

    A score is the probability of "Yes" where the next word is "Yes" or "No", not calibrated: a
    model that nearly always says yes still orders pairs, but needs a threshold near 1. With
    ``template`` and ``answer_words`` it is a judge that others have trained to answer.

    Args:
        source: A folder or a hub name of a causal language model.
        revision: Commit or tag on the hub.
        max_length: Tokens of a pair; of longer ones the end of either prefix is read.
        with_question: Whether the question stands before the prefixes.
        chat_template: Ask in the model's chat template; a base model has none.
        template: What it is asked, with ``{question}`` (unless ``with_question`` is false),
            ``{first}`` and ``{second}`` in it; ``None`` for our own.
        answer_words: What it answers for the same and for another answer.
        symmetric: Average both orders of a pair.
        dtype: Type of the weights, ``float32`` or ``bfloat16``.
        attention: ``sdpa``, ``eager`` or ``flash_attention_2``.
        device: ``auto`` or a torch device.
        trust_remote_code: Whether code from the hub may run.

    Raises:
        InputError: If the model or the device is missing, or the model has no chat template.
    """
    backbone = Backbone(
        source=source,
        revision=revision,
        pooling="last",
        head="generative",
        dtype=dtype,
        attention=attention,
        trust_remote_code=trust_remote_code,
    )
    try:
        encoder = PairEncoder(
            load_tokenizer(backbone),
            layout="causal",
            max_length=max_length,
            with_question=with_question,
            chat_template=chat_template,
            generative=True,
            template=template,
            answer_words=answer_words,
        )
    except ValueError as error:
        raise InputError(f"judge: {error}") from error
    name = f"zero-shot {Path(source).name}"
    model = load_model(backbone, answer_words)
    return CrossEncoderJudge(
        model, encoder, backbone, name=name, device=device, symmetric=symmetric
    )
