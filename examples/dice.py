"""An engine: traces that count the eyes of a die, one word a token."""

import asyncio
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from deepprune.core.types import FinishReason
from deepprune.generation.backend import Chunk, PromptFormat, Request, Sampling


@dataclass
class Dice:
    """Rolls a die for each trace, decided by the request's seed.

    Attributes:
        sides: Sides of the die.
    """

    sides: int = 6
    model = "dice"
    token_counter = "generator"
    can_continue = False
    omitted = ()
    seats = None

    async def open(self, format: PromptFormat, sampling: Sampling) -> None:
        """There is nothing to load."""

    async def stream(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Yield the words of a trace; `request.token_ids` has those before the last checkpoint."""
        roll = random.Random(request.seed).randint(1, self.sides)
        words = [*(f"eye {i + 1} " for i in range(roll)), f"\\boxed{{{roll}}}"]
        start = len(request.token_ids)
        for i, word in enumerate(words[start:], start):
            await asyncio.sleep(0)
            is_last = i + 1 == len(words)
            reason = FinishReason.STOP if is_last else None
            yield Chunk(word, (len(word),), token_ids=(i,), finish_reason=reason)

    async def close(self) -> None:
        """There is nothing to free."""
