"""Learning-rate schedules: warm-up, then linear or cosine decay to zero."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def linear_schedule(optimizer: Optimizer, n_steps: int, *, warmup: float = 0.1) -> LambdaLR:
    """Rise linearly over ``warmup`` (a fraction of ``n_steps``), then fall linearly to 0.

    Raises:
        ValueError: If ``warmup`` lies outside [0, 1).
    """
    return _schedule(optimizer, n_steps, warmup, lambda progress: 1 - progress)


def cosine_schedule(optimizer: Optimizer, n_steps: int, *, warmup: float = 0.1) -> LambdaLR:
    """Rise linearly over ``warmup`` (a fraction of ``n_steps``), then fall to 0 on half a cosine.

    Raises:
        ValueError: If ``warmup`` lies outside [0, 1).
    """
    return _schedule(
        optimizer, n_steps, warmup, lambda progress: (1 + math.cos(math.pi * progress)) / 2
    )


def _schedule(
    optimizer: Optimizer, n_steps: int, warmup: float, decay: Callable[[float], float]
) -> LambdaLR:
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a fraction of the steps in [0, 1), got {warmup}.")
    n_warmup = math.ceil(warmup * n_steps)

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        return decay(min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup)))

    return LambdaLR(optimizer, factor)
