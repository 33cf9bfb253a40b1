"""The network of ``model=linear``, from columns of numbers about a pair to a logit.

B: pairs of a batch, P: pairs, F: columns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from deepprune.core.protocols import BoolArray, FloatArray, IntArray


class ColumnModel(nn.Module):
    """Standardised columns through one linear layer, or two with a GELU between them.

    Args:
        n_columns: F.
        hidden: Units of the hidden layer; 0 for none, and weights that start at 0.
    """

    def __init__(self, n_columns: int, hidden: int = 0) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(n_columns))
        self.register_buffer("scale", torch.ones(n_columns))
        if hidden:
            self.layers = nn.Sequential(
                nn.Linear(n_columns, hidden), nn.GELU(), nn.Linear(hidden, 1)
            )
        else:
            last = nn.Linear(n_columns, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.layers = nn.Sequential(last)

    def standardise(self, values: FloatArray) -> None:
        """Take mean and deviation of each column from these values, shape ``(P, F)``."""
        scale = values.std(0)
        scale[scale < 1e-6] = 1.0
        self.mean.copy_(torch.from_numpy(values.mean(0)))
        self.scale.copy_(torch.from_numpy(scale))

    def forward(self, columns: Tensor) -> Tensor:
        """Return logits of "same answer", float32, ``(B, F)`` -> ``(B,)``."""
        with torch.autocast(columns.device.type, enabled=False):  # few numbers: keep float32
            logits: Tensor = self.layers((columns - self.mean) / self.scale)
        return logits[:, 0]


class ColumnInputs:
    """Columns of some pairs, see ``data.loader.PairInputs``.

    Attributes:
        columns: Shape ``(P, F)``.
        lengths: 0: no batch needs padding.
    """

    def __init__(self, values: FloatArray) -> None:
        self.columns = values
        self.lengths: IntArray = np.zeros(len(values), dtype=np.int64)
        self.is_truncated: BoolArray = np.zeros(len(values), dtype=np.bool_)

    def batch(self, rows: IntArray) -> dict[str, Tensor]:
        return {"columns": torch.from_numpy(self.columns[rows].astype(np.float32))}
