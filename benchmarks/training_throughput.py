"""Compare training speed with transformers' ``Trainer``, as ratios within one run.

    python benchmarks/training_throughput.py [TRACES] [K] [N_PAIRS]

All contenders use the same classifier (MiniLM, all weights trained), initial weights, pairs (first
K tokens, default 128, of TRACES, default ``pool``; a window of 256 tokens), batch size 16,
precision (bfloat16 autocast if the CPU supports it), loss, AdamW and gradient clipping. The time is
that of the training loop over one epoch, starting from token ids: ``PairLoader`` and
``JudgeModule`` under Lightning's ``Trainer``, against transformers' ``Trainer`` with its padding
collator, in random batches (its default) and grouped by length. Contenders run in turn.
"""

import os
import statistics
import sys
import tempfile
import time
import warnings
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
from deepprune.judge.network.backbones import Backbone, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import has_fast_bfloat16
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.losses import BCELoss
from deepprune.judge.network.module import JudgeModule
from deepprune.traces import open_traces

BATCH_SIZE, WINDOW, REPEATS = 16, 256, 3
BACKBONE = Backbone(source="minilm", attention="eager")
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

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.loss = load_model(BACKBONE), BCELoss()

    def forward(self, labels: torch.Tensor, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classifier(**inputs)
        return {"loss": self.loss(logits, labels, labels), "logits": logits}


def lightning(pairs: EncodedPairs, is_bfloat16: bool) -> float:
    """Return the seconds of one epoch with Lightning's trainer."""
    torch.manual_seed(0)
    sampler = NaturalSampler(pairs.labels, pairs.group, 0)
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
    ).fit(JudgeModule(load_model(BACKBONE), BCELoss(), OPTIMIZER), loader)
    return clock.seconds


def transformers(pairs: EncodedPairs, is_bfloat16: bool, tokenizer, strategy: str) -> float:
    """Return the seconds of one epoch with transformers' trainer."""
    torch.manual_seed(0)
    features = []
    for i in range(len(pairs)):
        batch = pairs.batch([i])
        inputs = {name: values[0].tolist() for name, values in batch["inputs"].items()}
        features.append({**inputs, "labels": float(batch["labels"][0])})
    model, clock = WithLoss(), Clock()
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


def main(traces: str = "pool", k: str = "128", n_pairs: str = "192") -> None:
    """Print pairs per second and ratios."""
    tokenizer = load_tokenizer(BACKBONE)
    every = [
        pair
        for group in open_traces(traces).load()
        for pair in build_pairs(group, FirstTokens(int(k)))
    ]
    chosen = np.random.default_rng(0).choice(len(every), int(n_pairs), replace=False)
    pairs = EncodedPairs(
        [every[i] for i in chosen], PairEncoder(tokenizer, max_length=WINDOW).encode
    )
    is_bfloat16 = has_fast_bfloat16("cpu")
    contenders: dict[str, Callable[[], float]] = {
        "JudgeModule, PairLoader": lambda: lightning(pairs, is_bfloat16),
        "transformers, random batches": lambda: transformers(
            pairs, is_bfloat16, tokenizer, "random"
        ),
        "transformers, grouped by length": lambda: transformers(
            pairs, is_bfloat16, tokenizer, "group_by_length"
        ),
    }
    low, middle, high = np.quantile(pairs.inputs.lengths, [0, 0.5, 1]).astype(int)
    print(
        f"{len(pairs)} pairs of {low} to {high} tokens, median {middle}; "
        f"{'bfloat16' if is_bfloat16 else 'float32'}",
        flush=True,
    )
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, train in contenders.items():
            seconds[name].append(train())
    ours = seconds["JudgeModule, PairLoader"]
    for name, theirs in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        rate = len(pairs) / statistics.median(theirs)
        print(f"{name:32} {rate:6.2f} pairs/s, ours {ratio:.2f}x (median of {REPEATS})")


if __name__ == "__main__":
    if "-h" in sys.argv or "--help" in sys.argv:
        sys.exit(__doc__)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    main(*sys.argv[1:])
