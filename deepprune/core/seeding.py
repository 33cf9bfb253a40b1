"""Random generators that depend on names, not on the order in which things happen."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A seed for one purpose, a 128-bit integer."""
    key = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "big")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A generator for one purpose, e.g. ``generator(0, question_id, "order")``.

    The same seed and names give the same numbers on every machine, whatever was drawn before.
    """
    return np.random.default_rng(derive(seed, *names))
