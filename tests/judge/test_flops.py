import numpy as np
import pytest

from deepprune.core.flops import transformer_flops
from deepprune.evaluation.ledger import GeneratorSize, Ledger


def test_by_hand():
    """1,000 weights, 2 layers of width 8, 10 tokens: 2 * 1000 * 10 + 4 * 2 * 8 * 100; causal, the
    tokens see 1 + 2 + ... + 10 = 55 tokens.
    """
    assert transformer_flops(1000, 2, 8, 10, causal=False) == 20_000 + 6_400
    assert transformer_flops(1000, 2, 8, 10, causal=True) == 20_000 + 64 * 55
    assert transformer_flops(1000, 2, 8, 0) == 0


def test_many_sequences_at_once():
    lengths = np.array([0.0, 1.0, 10.0])
    assert transformer_flops(1000, 2, 8, lengths).tolist() == [0, 2_000 + 64, 20_000 + 64 * 55]


@pytest.mark.parametrize("window", [None, 1, 4, 9, 12, 100])
def test_prompt_and_windows_are_priced_token_by_token(window):
    """A prompt of 7, traces of 5 and 0 tokens, an answer of 3 forced after 5; counted in loops.

    Of 3 layers of width 8, one has the window.
    """
    size = GeneratorSize(1000, 3, 8, window, 0 if window is None else 1)
    ledger = Ledger(size, prompt_tokens=7)

    def pairs(first, last):
        """Tokens that each layer's tokens from number ``first`` to ``last`` see, themselves too."""
        near = sum(min(i, window or 0) for i in range(first, last + 1))
        return (2 if window else 3) * sum(range(first, last + 1)) + near

    def flops(first, last):
        return 2 * 1000 * (last - first + 1) + 4 * 8 * pairs(first, last)

    traces = ledger.trace_flops(np.array([5.0, 0.0]))
    assert traces.tolist() == [flops(8, 12), 0]
    forced = np.array(3.0), np.array(3 * 5 + (1 + 2 + 3))  # context: places and itself
    if window != 12:  # inside the window and beyond it at once: an upper bound
        assert ledger.flops(traces.sum(), *forced) == flops(1, 12) + flops(13, 15)
    assert ledger.flops(traces.sum(), *forced) >= flops(1, 12) + flops(13, 15)


def test_a_window_has_layers():
    with pytest.raises(ValueError, match="got window=128, windowed=0"):
        GeneratorSize(1000, 3, 8, window=128)
