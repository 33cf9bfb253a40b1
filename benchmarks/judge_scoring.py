"""Measure the speed of scoring pairs, as ratios within one run.

    python benchmarks/judge_scoring.py minilm [TRACES]
    python benchmarks/judge_scoring.py decoder SMOLLM2_FOLDER [TRACES] [N_PREFIXES]

- ``minilm``: ``CrossEncoderJudge.score`` against sentence-transformers' ``CrossEncoder.predict``,
  with the same weights, on 2,000 distinct ordered pairs of 200 prefixes (first 500 tokens, or the
  whole trace if it is shorter) and a window of 511 tokens that keeps the end of each side. The
  architecture is BERT with a linear layer on the first token: sentence-transformers loads it as
  ``BertForSequenceClassification`` whose pooler returns the first token. Both use SDPA and all
  threads. Pairs are split into blocks, each scored by every contender in turn.
- ``decoder``: SmolLM2-135M (see ``smollm2.py``), 256 tokens of each prefix besides the template.
  First one representative against 8 candidates, packed, against pair by pair. Then all pairs of
  N_PREFIXES (default 32), against ``CrossEncoder.predict`` with the same weights on every fourth of
  them, per pair, in float32. It tokenises text anew, so that a token at a seam may differ.

TRACES defaults to ``pool``. Both need ``pip install sentence-transformers``.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertForSequenceClassification
from transformers.utils import logging

from deepprune.core.types import Prefix, TracePair
from deepprune.data.prefixes import FirstTokens, make_prefix
from deepprune.judge.network.backbones import Backbone, PairClassifier, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import CrossEncoderJudge, has_fast_bfloat16
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.inference import pair_logits, token_batches
from deepprune.judge.network.packing import PairTokens, pad
from deepprune.judge.network.vllm_scoring import save_sequence_classifier
from deepprune.traces import open_traces

N_PREFIXES, N_PAIRS, N_BLOCKS = 200, 2_000, 5
PREFIX_LEN, WINDOW = 500, 511  # an odd window gives both sides the same length
N_CANDIDATES, SIDE, REPEATS = 8, 256, 3
TOKENS_PER_BATCH = 4_096  # the default of a causal judge on a CPU


class FirstToken(torch.nn.Module):
    """Replace BERT's pooler, which our classifier does not have."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, 0]


def draw_prefixes(traces: str, n: int, k: int, rng: np.random.Generator) -> list[Prefix]:
    """Draw n traces from all and return their prefixes of k tokens."""
    all_traces = [trace for group in open_traces(traces).load() for trace in group.traces]
    chosen = rng.choice(len(all_traces), n, replace=False)
    return [make_prefix(all_traces[i], FirstTokens(k)) for i in chosen]


def sentence_transformer(model: PairClassifier, tokenizer, dtype: torch.dtype):
    """Return a sentence-transformers ``CrossEncoder`` with the same weights."""
    from sentence_transformers import CrossEncoder

    config = type(model.encoder.config).from_dict(
        {**model.encoder.config.to_dict(), "num_labels": 1}
    )
    bert = BertForSequenceClassification(config)
    bert.bert.load_state_dict(model.encoder.state_dict(), strict=False)
    bert.classifier.load_state_dict(model.head.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        bert.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        encoder = CrossEncoder(
            folder, max_length=WINDOW, device="cpu", model_kwargs={"dtype": dtype}
        )
    encoder.tokenizer.truncation_side = "left"
    encoder.model.bert.pooler = FirstToken()
    return encoder


def minilm(traces: str = "pool") -> None:
    """Print pairs per second of every contender, ratios and largest score differences."""
    rng = np.random.default_rng(0)
    prefixes = draw_prefixes(traces, N_PREFIXES, PREFIX_LEN, rng)
    drawn = rng.choice(N_PREFIXES * (N_PREFIXES - 1), N_PAIRS, replace=False)
    pairs = []
    for i, j in zip(*divmod(drawn, N_PREFIXES - 1), strict=True):
        pairs.append(TracePair(prefixes[i], prefixes[j + (j >= i)]))

    torch.manual_seed(0)
    backbone = Backbone(source="minilm", pooling="cls")
    tokenizer, model = load_tokenizer(backbone), load_model(backbone).eval()
    torch.nn.init.normal_(model.head.weight, std=0.3)
    pair_encoder = PairEncoder(tokenizer, max_length=WINDOW)

    def ours(precision: str) -> Callable[[list[TracePair]], np.ndarray]:
        return CrossEncoderJudge(
            model, pair_encoder, backbone, device="cpu", precision=precision
        ).score

    def theirs(dtype: torch.dtype) -> Callable[[list[TracePair]], np.ndarray]:
        encoder = sentence_transformer(model, tokenizer, dtype)
        return lambda some: encoder.predict([(p.first.text, p.second.text) for p in some])

    contenders = {
        "sentence-transformers, float32": theirs(torch.float32),
        "Judge.score, float32": ours("float32"),
    }
    if has_fast_bfloat16("cpu"):
        contenders["sentence-transformers, bfloat16"] = theirs(torch.bfloat16)
        contenders["Judge.score, bfloat16 (the default here)"] = ours("bfloat16")
    for score in contenders.values():
        score(pairs[:4])
    seconds, scores = {name: [] for name in contenders}, {name: [] for name in contenders}
    for block in range(N_BLOCKS):
        for name, score in contenders.items():
            start = time.perf_counter()
            scores[name].extend(score(pairs[block::N_BLOCKS]))
            seconds[name].append(time.perf_counter() - start)

    lengths = [len(ids) for ids in pair_encoder.tokenise([p.text for p in prefixes])]
    print(f"{N_PAIRS} pairs of {N_PREFIXES} prefixes of {min(lengths)} to {max(lengths)} tokens")
    base = next(iter(contenders))
    for name in contenders:
        ratio = statistics.median(a / b for a, b in zip(seconds[base], seconds[name], strict=True))
        gap = np.abs(np.array(scores[name]) - scores[base]).max()
        print(
            f"{name:42} {N_PAIRS / sum(seconds[name]):6.2f} pairs/s, {ratio:4.2f}x (median of "
            f"{N_BLOCKS} blocks), scores within {gap:.1e}"
        )


def decoder(folder: str, traces: str = "pool", n_prefixes: str = "32") -> None:
    """Print seconds packed and pair by pair, their ratio and the largest logit difference."""
    torch.manual_seed(0)
    backbone = Backbone(source=folder, pooling="last")
    tokenizer, model = load_tokenizer(backbone), load_model(backbone).eval()
    encoder = PairEncoder(tokenizer, layout=backbone.layout, max_length=2_048)
    prefixes = draw_prefixes(traces, 400, 10**6, np.random.default_rng(0))
    tokens = [ids[:SIDE] for ids in encoder.tokenise([p.text for p in prefixes])]
    full = [ids for ids in tokens if len(ids) == SIDE]
    if len(full) < max(N_CANDIDATES + 1, int(n_prefixes)):
        sys.exit(f"{traces} has too few traces of at least {SIDE} tokens.")
    sequences = [encoder.join([], full[0], second) for second in full[1 : N_CANDIDATES + 1]]

    def separate() -> np.ndarray:
        logits = np.empty(len(sequences))
        with torch.inference_mode():
            for rows in token_batches([len(s.input_ids) for s in sequences], TOKENS_PER_BATCH):
                logits[rows] = model(**pad([sequences[i] for i in rows])).numpy()
        return logits

    def shared() -> np.ndarray:
        return pair_logits(model, encoder, sequences, tokens_per_batch=TOKENS_PER_BATCH)

    describe(sequences)
    model.reads_packed(sequences)  # compares with single pairs, once a process
    for precision in ("float32", "bfloat16")[: 1 + has_fast_bfloat16("cpu")]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            runs = [(timed(separate), timed(shared)) for _ in range(REPEATS)]
        ratio = statistics.median(a[0] / b[0] for a, b in runs)
        (slow, expected), (fast, found) = runs[-1]
        print(
            f"{precision}: {slow:.2f} s separate, {fast:.2f} s shared, {ratio:.2f}x (median of "
            f"{REPEATS}), logits of std {expected.std():.2f} within "
            f"{np.abs(found - expected).max():.1e}",
            flush=True,
        )

    all_pairs(model, encoder, full[: int(n_prefixes)])


def all_pairs(model: PairClassifier, encoder: PairEncoder, prefixes: list[list[int]]) -> None:
    """Print pairs per second on all pairs of the prefixes, and those of sentence-transformers."""
    from sentence_transformers import CrossEncoder

    sequences = [encoder.join([], a, b) for a, b in itertools.combinations(prefixes, 2)]
    some = sequences[::4]
    texts = [tuple(map(encoder.tokenizer.decode, (s.head, s.tail))) for s in some]
    with tempfile.TemporaryDirectory() as folder:
        save_sequence_classifier(model, Path(folder))
        encoder.tokenizer.chat_template = None  # with one, theirs would read a chat
        encoder.tokenizer.save_pretrained(folder)
        theirs = CrossEncoder(folder, device="cpu", model_kwargs={"dtype": torch.float32})
    describe(sequences)
    ours, found = timed(
        lambda: pair_logits(model, encoder, sequences, tokens_per_batch=TOKENS_PER_BATCH)
    )
    slow, expected = timed(lambda: theirs.predict(texts, activation_fn=torch.nn.Identity()))
    ratio = slow / len(some) / (ours / len(sequences))
    print(
        f"{len(sequences)} pairs of {len(prefixes)} prefixes: {len(sequences) / ours:.2f} pairs/s, "
        f"sentence-transformers {len(some) / slow:.2f}, {ratio:.2f}x, logits within "
        f"{np.abs(found[::4] - expected).max():.1e}"
    )


def describe(sequences: list[PairTokens]) -> None:
    total = sum(len(s.input_ids) for s in sequences)
    shared = sum(map(len, {tuple(s.head) for s in sequences})) + sum(len(s.tail) for s in sequences)
    print(f"{total} tokens pair by pair, {shared} packed: {total / shared:.2f}x")


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


if __name__ == "__main__":
    what, *arguments = sys.argv[1:] or [""]
    if what not in ("minilm", "decoder") or (what == "decoder" and not arguments):
        sys.exit(__doc__)
    logging.set_verbosity_error()
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    {"minilm": minilm, "decoder": decoder}[what](*arguments)
