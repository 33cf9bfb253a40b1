"""``deepprune doctor --gpu``: train, score and generate with random weights, and print a table."""

from __future__ import annotations

import gc
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config
from transformers.utils import logging as transformers_logging

from deepprune.core.errors import InputError
from deepprune.core.types import TracePair
from deepprune.data.loader import EncodedPairs
from deepprune.data.prefixes import FirstTokens, make_prefix
from deepprune.judge.network.backbones import (
    Backbone,
    Lora,
    forward_flops,
    load_model,
    load_tokenizer,
)
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.inference import pair_logits
from deepprune.judge.network.losses import BCELoss
from deepprune.judge.network.module import JudgeModule
from deepprune.judge.network.packing import on_device, pack, pad
from deepprune.traces import open_traces

if TYPE_CHECKING:
    from deepprune.commands.step_timing import TimedEngine

MakeEngine: TypeAlias = "Callable[[Sequence[str]], TimedEngine]"
"""Makes the engine from options of ``deepprune prune``."""


class Size(NamedTuple):
    """Sizes of the measurement: `FULL` on a GPU, smaller ones in a test.

    Attributes:
        config: Options of the architecture, those of Qwen3.
        steps: Training steps.
        questions: Questions of the bundled pool, each with 8 pairs of one representative.
        max_length: Tokens of a pair, here bytes of text.
    """

    config: dict[str, Any]
    steps: int
    questions: int
    max_length: int


FULL = Size(
    {  # Qwen/Qwen3-0.6B, config.json
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
    },
    steps=20,
    questions=4,
    max_length=1024,
)
CANDIDATES = 8
"""Pairs of a representative."""

MAX_GAP = 0.15
"""Bound of the relative difference between bfloat16 and float32 logits; 28 random layers of width
256 give .06 on a CPU."""

Report = Iterator[tuple[str, str, bool]]
"""Rows of the table: what was measured, the figures, whether they are as they should be."""


def check_gpu(machine: Iterable[tuple[str, str]], engine: MakeEngine | None) -> int:
    """Print versions and the table of the first GPU; return the exit code, 1 if a row fails.

    Args:
        machine: Versions and the like, by name.
        engine: Makes the engine of the last row; ``None`` where vLLM is missing.

    Raises:
        InputError: If torch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise InputError(
            f"doctor --gpu needs a CUDA device, and torch {torch.__version__} sees none: check "
            "nvidia-smi and that torch is a CUDA build, or run deepprune doctor alone."
        )
    gpu, cuda = torch.cuda.get_device_properties(0), torch.version.cuda
    said = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}, CUDA {cuda}"
    for name, value in (*machine, ("measured on", said)):
        print(f"{name:13}{value}")
    print("\nQwen3-0.6B's architecture with random weights")
    return print_rows("cuda", FULL, engine)


def print_rows(device: str, size: Size, engine: MakeEngine | None) -> int:
    """Print each row when it is measured; an exception is a row that fails."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    code = 0
    with warnings.catch_warnings(action="ignore"), TemporaryDirectory() as folder:
        _save_random_model(Path(folder), size)
        parts: list[tuple[str, Callable[[], Report]]] = [
            ("training and scoring", lambda: _trained(folder, device, size)),
            ("groups against pairs", lambda: _grouped(folder, device, size)),
            ("bf16 against fp32", lambda: _precisions(folder, device, size)),
        ]
        if engine is not None:
            parts.append(("generation, vLLM", lambda: _generated(folder, engine)))
        for part, measure in parts:
            try:
                for name, figures, is_ok in measure():
                    print(f"{'ok  ' if is_ok else 'FAIL'}  {name:22}{figures}", flush=True)
                    code |= not is_ok
            except Exception as error:
                print(f"FAIL  {part:22}{type(error).__name__}: {error}", flush=True)
                code = 1
    return int(code)


def _save_random_model(folder: Path, size: Size) -> None:
    """Save a model with random weights and a tokenizer of one token a byte."""
    torch.manual_seed(0)
    config = Qwen3Config(**size.config, use_cache=False)
    model: Any = AutoModelForCausalLM
    model.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [f"<{i}>" for i in range(config.vocab_size - len(letters))]
    vocabulary = {token: i for i, token in enumerate([*letters, *fillers])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=fillers[0], eos_token=fillers[1]
    )
    fast.save_pretrained(folder)


def _pairs(size: Size) -> list[TracePair]:
    """Return pairs of the pool: of each question one representative with its candidates."""
    store, rule = open_traces("pool"), FirstTokens(size.max_length // 3)  # of 3 bytes and more
    pairs = []
    for ref in store.refs()[: size.questions]:
        first, *others = (
            make_prefix(trace, rule) for trace in store.group(ref).traces[: CANDIDATES + 1]
        )
        pairs += [TracePair(first, other) for other in others]
    return pairs


def _judge(folder: str, size: Size, device: str, **settings: Any) -> tuple[Any, PairEncoder]:
    backbone = Backbone(source=folder, pooling="last", **settings)
    torch.manual_seed(0)
    encoder = PairEncoder(
        load_tokenizer(backbone), layout="causal", max_length=size.max_length, with_question=True
    )
    return load_model(backbone).to(device), encoder


class _Clock(pl.Callback):
    """Keeps the loss and the end of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_end(self, *facts: Any) -> None:
        self.losses.append(facts[2]["loss"].item())  # which waits for the device
        self.ends.append(time.perf_counter())


def _trained(folder: str, device: str, size: Size) -> Report:
    """Train adapters on one batch, and score its pairs."""
    model, encoder = _judge(
        folder, size, device, lora=Lora(), gradient_checkpointing=True, dtype="bfloat16"
    )
    pairs = EncodedPairs(_pairs(size), encoder.encode)
    clock, on_gpu = _Clock(), device == "cuda"
    trainer = pl.Trainer(
        max_steps=size.steps,
        accelerator=device,
        devices=1,
        precision="bf16-mixed" if on_gpu else "32-true",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = DataLoader([pairs.batch(range(len(pairs)))] * size.steps, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(JudgeModule(model, BCELoss(), partial(torch.optim.AdamW, lr=1e-4)), batches)
    step = median(np.diff(clock.ends[size.steps // 4 :]).tolist())
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if on_gpu else ""
    flops = 3 * sum(forward_flops(model, pairs.inputs.lengths.astype(float), causal=True))
    losses = f"loss {clock.losses[0]:.3f} to {clock.losses[-1]:.3f}"
    yield (
        f"training, {size.steps} steps",
        f"{len(pairs) / step:.1f} pairs/s of {pairs.inputs.lengths.mean():.0f} tokens, "
        f"{flops / step / 1e12:.3g} TFLOP/s counted as single pairs, {losses}{memory}",
        math.isfinite(clock.losses[-1]) and clock.losses[-1] < clock.losses[0],
    )
    yield _scored(model.to(device).eval(), encoder, size)


def _scored(model: Any, encoder: PairEncoder, size: Size) -> tuple[str, str, bool]:
    sequences, seconds = _sequences(encoder, size), []
    for _ in range(3):
        start = time.perf_counter()
        logits = pair_logits(model, encoder, sequences, tokens_per_batch=16 * size.max_length)
        seconds.append(time.perf_counter() - start)
    return "scoring", f"{len(logits) / seconds[-1]:.1f} pairs/s", bool(np.isfinite(logits).all())


def _sequences(encoder: PairEncoder, size: Size) -> Any:
    pairs = _pairs(size)
    inputs = encoder.encode(pairs)
    return [inputs.sequence(texts) for texts in inputs.texts.tolist()]


def _grouped(folder: str, device: str, size: Size) -> Report:
    """Time forward and backward pass of packed pairs against the same pairs read one by one."""
    model, encoder = _judge(
        folder, size, device, lora=Lora(), gradient_checkpointing=True, dtype="bfloat16"
    )
    model.train()  # checkpointing is for training alone
    found, seconds, sequences = [], [], _sequences(encoder, size)
    is_packed = model.reads_packed(sequences)  # else the model reads them one by one either way
    for make in (pack, pad):
        inputs = on_device(make(sequences), next(model.parameters()).device)
        for _ in range(3):
            start = time.perf_counter()
            logits = model(**inputs)
            logits.sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            last = time.perf_counter() - start
        seconds.append(last)
        found.append(logits.detach().cpu())
    ratio, gap = seconds[1] / seconds[0], _gap(*found)
    yield (
        "groups against pairs",
        f"{ratio:.2f}x as fast, logits differ by {gap:.1e} of their size"
        if is_packed
        else "not shared: packed hidden states differ",
        is_packed and gap <= MAX_GAP,
    )


def _precisions(folder: str, device: str, size: Size) -> Report:
    """Compare the logits of one model in both precisions."""
    found = []
    for dtype in ("float32", "bfloat16"):
        model, encoder = _judge(folder, size, device, dtype=dtype)
        sequences = _sequences(encoder, size)
        found.append(
            pair_logits(model.eval(), encoder, sequences, tokens_per_batch=16 * size.max_length)
        )
    gap = _gap(found[1], found[0])
    yield "bf16 against fp32", f"logits differ by {gap:.1e} of their size", gap <= MAX_GAP


def _gap(a: Any, b: Any) -> float:
    """Return the norm of the difference, relative to that of ``b``."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _generated(folder: str, engine: MakeEngine) -> Report:
    """Generate traces of one question with vLLM."""
    gc.collect()  # a Trainer has cycles
    torch.cuda.empty_cache()
    words = [f"engine.model={folder}", "engine.max_model_len=2048", "sampling.max_tokens=512"]
    live, _ = engine([*words, "engine.gpu_memory_utilization=0.5", "prompt.chat=false"])
    question = open_traces("pool").refs()[0].question
    try:
        live.start()
        live.generate(question, 0, 0).result()
        start = time.perf_counter()
        traces = [live.generate(question, i, 0) for i in range(1, 33)]
        n_tokens = sum(len(trace.result().token_end) for trace in traces)
        seconds = time.perf_counter() - start
    finally:
        live.close()
    yield "generation, vLLM", f"{n_tokens / seconds:,.0f} tokens/s of 32 traces", n_tokens > 0
