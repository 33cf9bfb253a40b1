"""Random generators seeded by purpose, so that results do not depend on the order of draws."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """Return the seed for one purpose, a 128-bit integer."""
    key = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "big")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator for one purpose, e.g. ``generator(0, question_id, "order")``.

    The same seed and names give the same numbers on every machine.
    """
    return np.random.default_rng(derive(seed, *names))
