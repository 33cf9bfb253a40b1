"""Compare training speed with transformers' ``Trainer``, as ratios within one run.

    python benchmarks/training_throughput.py minilm [TRACES] [K] [N_PAIRS] [REPEATS]
    python benchmarks/training_throughput.py SMOLLM2_FOLDER [TRACES] [K] [N_PAIRS] [REPEATS]

All contenders use the same classifier, initial weights, pairs (first K tokens of TRACES, default
``pool``), batch size 16, precision (bfloat16 autocast if the CPU supports it), loss, AdamW and
gradient clipping. The time is that of the training loop over one epoch, starting from token ids:
``PairLoader`` and ``JudgeModule`` under Lightning's ``Trainer``, against transformers' ``Trainer``
with its padding collator, in random batches (its default) and grouped by length. Contenders run in
turn.

- ``minilm``: all weights are trained, K = 128, a window of 256 tokens, random pairs.
- SmolLM2-135M (see ``smollm2.py``): LoRA, K = 256, representatives with 8 candidates each, which
  ours reads once. Our comparison of packed with single pairs at the start is not timed.
"""

import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from deepprune.data.loader import EncodedPairs, PairLoader
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.data.samplers import BucketBatchSampler, NaturalSampler
from deepprune.judge.network.backbones import Backbone, Lora, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import has_fast_bfloat16
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.losses import BCELoss
from deepprune.judge.network.module import JudgeModule
from deepprune.traces import open_traces

BATCH_SIZE, GROUP = 16, 8
OPTIMIZER = partial(torch.optim.AdamW, lr=2e-4, weight_decay=0.01)


class Clock(pl.Callback, TrainerCallback):
    """Measure the seconds of the training loop, in either trainer."""

    def on_train_start(self, *args) -> None:
        self._start = time.perf_counter()

    def on_train_begin(self, *args, **kwargs) -> None:
        self._start = time.perf_counter()

    def on_train_end(self, *args, **kwargs) -> None:
        self.seconds = time.perf_counter() - self._start


class WithLoss(nn.Module):
    """Wrap classifier and loss in the interface that transformers' trainer expects."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.classifier, self.loss = load_model(backbone), BCELoss()

    def forward(self, labels: torch.Tensor, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classifier(**inputs)
        return {"loss": self.loss(logits, labels, labels), "logits": logits}


def lightning(backbone: Backbone, pairs: EncodedPairs, is_bfloat16: bool) -> float:
    """Return the seconds of one epoch with Lightning's trainer."""
    torch.manual_seed(0)
    model = load_model(backbone)
    sampler = NaturalSampler(pairs.labels, pairs.group, 0)
    if backbone.layout == "causal":
        sampler.keep_together(pairs.head, GROUP)
        model.reads_packed([pairs.inputs.sequence(row) for row in pairs.inputs.texts[:2].tolist()])
    loader = PairLoader(pairs, BucketBatchSampler(sampler, pairs.inputs.lengths, BATCH_SIZE))
    clock = Clock()
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="bf16-mixed" if is_bfloat16 else "32-true",
        gradient_clip_val=1.0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(JudgeModule(model, BCELoss(), OPTIMIZER), loader)
    return clock.seconds


def transformers(
    backbone: Backbone, pairs: EncodedPairs, is_bfloat16: bool, tokenizer, strategy: str
) -> float:
    """Return the seconds of one epoch with transformers' trainer."""
    torch.manual_seed(0)
    features = []
    for texts, label in zip(pairs.inputs.texts.tolist(), pairs.labels.tolist(), strict=True):
        sequence = pairs.inputs.sequence(texts)
        features.append({"input_ids": sequence.input_ids, "labels": float(label)})
        if backbone.layout == "bert":
            features[-1]["token_type_ids"] = [0] * len(sequence.head) + [1] * len(sequence.tail)
    model, clock = WithLoss(backbone).train(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            train_sampling_strategy=strategy,
            bf16=is_bfloat16,
            use_cpu=True,
            max_grad_norm=1.0,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(
            model,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=features,
            optimizers=(OPTIMIZER(model.parameters()), None),
            callbacks=[clock],
        ).train()
    return clock.seconds


def setting(source: str) -> tuple[Backbone, int, int]:
    """Return backbone, tokens of a prefix and the window of a benchmark."""
    if source == "minilm":
        return Backbone(source="minilm", attention="eager"), 128, 256
    return Backbone(source=source, pooling="last", lora=Lora()), 256, 1_024


def main(
    source: str, traces: str = "pool", k: str = "", n_pairs: str = "192", repeats: str = "3"
) -> None:
    """Print pairs per second and ratios."""
    backbone, prefix_len, window = setting(source)
    is_causal = backbone.layout == "causal"
    rule = FirstTokens(int(k or prefix_len))
    every = [
        pair
        for group in open_traces(traces).load()
        for pair in build_pairs(group, rule, n_candidates=GROUP if is_causal else 1)
        if not is_causal or min(pair.first.n_tokens, pair.second.n_tokens) == rule.k
    ]
    if is_causal:  # whole groups
        of_head = defaultdict(list)
        for pair in every:
            of_head[pair.first.key].append(pair)
        groups = [some[:GROUP] for some in of_head.values() if len(some) >= GROUP]
        every = [pair for some in groups for pair in some][: int(n_pairs)]
    else:
        chosen = np.random.default_rng(0).choice(len(every), int(n_pairs), replace=False)
        every = [every[i] for i in chosen]
    tokenizer = load_tokenizer(backbone)
    encoder = PairEncoder(tokenizer, layout=backbone.layout, max_length=window)
    pairs = EncodedPairs(every, encoder.encode)
    is_bfloat16 = has_fast_bfloat16("cpu")
    contenders: dict[str, Callable[[], float]] = {
        "JudgeModule, PairLoader": lambda: lightning(backbone, pairs, is_bfloat16),
        "transformers, random batches": lambda: transformers(
            backbone, pairs, is_bfloat16, tokenizer, "random"
        ),
    }
    if not is_causal:  # whose pairs are about equally long
        contenders["transformers, grouped by length"] = lambda: transformers(
            backbone, pairs, is_bfloat16, tokenizer, "group_by_length"
        )
    low, middle, high = np.quantile(pairs.inputs.lengths, [0, 0.5, 1]).astype(int)
    print(
        f"{len(pairs)} pairs of {low} to {high} tokens, median {middle}, "
        f"{pairs.head.max() + 1} representatives; {'bfloat16' if is_bfloat16 else 'float32'}",
        flush=True,
    )
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(int(repeats)):
        for name, train in contenders.items():
            seconds[name].append(train())
    ours = seconds["JudgeModule, PairLoader"]
    for name, theirs in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        rate = len(pairs) / statistics.median(theirs)
        print(f"{name:32} {rate:6.2f} pairs/s, ours {ratio:.2f}x (median of {repeats})")


if __name__ == "__main__":
    if not sys.argv[1:] or "-h" in sys.argv or "--help" in sys.argv:
        sys.exit(__doc__)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    main(*sys.argv[1:])
