import numpy as np

from deepprune.core.flops import transformer_flops


def test_by_hand():
    """1,000 weights, 2 layers of width 8, 10 tokens: 2 * 1000 * 10 + 4 * 2 * 8 * 100."""
    assert transformer_flops(1000, 2, 8, 10, causal=False) == 20_000 + 6_400
    assert transformer_flops(1000, 2, 8, 10, causal=True) == 20_000 + 3_200
    assert transformer_flops(1000, 2, 8, 0) == 0


def test_many_sequences_at_once():
    lengths = np.array([0.0, 1.0, 10.0])
    assert transformer_flops(1000, 2, 8, lengths).tolist() == [0, 2_000 + 32, 20_000 + 3_200]
