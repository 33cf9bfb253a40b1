"""Linear judges for tests: pairs with a planted signal, and a judge fitted on pairs in a second."""

import numpy as np
import torch
from builders import trace

from deepprune.core.types import Prefix, Question, TracePair, among_peers
from deepprune.judge.linear import LinearArchitecture


def prefix(text, n_tokens=None, *, question="q", sample=0, answer_class=0, finished=False):
    made = trace(Question("toy", question, "What?", "1"), sample, text, "1", answer_class)
    return Prefix(made, made.n_tokens if n_tokens is None else n_tokens, finished)


def planted(n_questions=12, n_traces=8, seed=0):
    """Pairs of traces that name their answer class by a number of their own, among noise."""
    rng = np.random.default_rng(seed)
    pairs = []
    for q in range(n_questions):
        prefixes = []
        for sample in range(n_traces):
            answer_class = int(rng.integers(2))
            words = [*rng.integers(10, 99, 6).astype(str), f"{100 * q + answer_class + 1000}"]
            text = " wait so ".join(rng.permutation(words))
            prefixes.append(
                prefix(text, question=f"{seed}/{q}", sample=sample, answer_class=answer_class)
            )
        prefixes = among_peers(prefixes)
        pairs += [TracePair(a, b) for i, a in enumerate(prefixes) for b in prefixes[i + 1 :]]
    return pairs


def fitted(pairs, groups=("overlaps", "lengths"), *, hidden=0, seen=frozenset(), steps=60):
    """Full-batch AdamW on binary cross-entropy."""
    torch.manual_seed(0)
    architecture = LinearArchitecture(groups, hidden)
    inputs = architecture.encoding(pairs)
    model = architecture.build(inputs)
    batch = inputs.batch(np.arange(len(pairs)))
    labels = torch.tensor([float(p.label) for p in pairs])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(**batch), labels).backward()
        optimizer.step()
    return architecture.judge(model, seen)
