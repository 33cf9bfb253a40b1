"""The linear judge: columns of numbers about a pair, weighed by a small network.

The judge scores in NumPy; only its training imports torch (``network.columns``).
P: pairs, F: columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import erf

from deepprune.core.errors import InputError
from deepprune.core.options import Ge, checked
from deepprune.core.protocols import FloatArray, Need
from deepprune.core.types import Prefix, TracePair
from deepprune.judge.base import Prices
from deepprune.judge.features.groups import joined_groups
from deepprune.judge.saved import LINEAR, WEIGHTS, SavedJudge
from deepprune.judge.trained import TrainedJudge

if TYPE_CHECKING:
    from torch import nn

    from deepprune.judge.network.columns import ColumnInputs, ColumnModel

FEATURES_VERSION = 3
"""Version of the columns: weights are read back only by the one that they were trained with."""

Weights = Mapping[str, NDArray[np.float32]]


class LinearJudge(TrainedJudge):
    """Weighs columns of feature groups; symmetric, and without a neural network's cost.

    With overlaps and lengths, and at least 50 training questions, it orders the pairs of a question
    better than number overlap and than a cross-encoder on MiniLM (study E2).

    Its groups are names of ``features.groups``, its weights the state of a ``ColumnModel``.

    Raises:
        ValueError: If weights and groups do not fit each other.
    """

    kind = LINEAR
    is_symmetric = True

    def __init__(
        self,
        groups: Sequence[str],
        weights: Weights,
        *,
        name: str = "linear",
        seen_questions: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(name=name, seen_questions=seen_questions)
        self.groups = tuple(groups)
        self._features = joined_groups(groups)
        self._weights = dict(weights)
        self._layers = [f"layers.{i}" for i in (0, 2) if f"layers.{i}.weight" in weights]
        n_columns = len(self._features.names)
        shapes = {part: weights[part].shape for part in ("mean", "scale")}
        shapes["layers.0.weight"] = weights["layers.0.weight"].shape[1:]
        if set(shapes.values()) != {(n_columns,)}:
            raise ValueError(f"the groups have {n_columns} columns, the weights {shapes}")
        self.needs = self._features.needs
        self.reads_peers = self._features.reads_peers
        self.is_model = self._features.is_model

    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        values = (self._features.columns(pairs) - self._weights["mean"]) / self._weights["scale"]
        for number, layer in enumerate(self._layers):
            if number:
                values = values * (1 + erf(values / np.sqrt(2))) / 2  # GELU
            values = values @ self._weights[f"{layer}.weight"].T + self._weights[f"{layer}.bias"]
        logits: FloatArray = values[:, 0]
        return logits

    @property
    def settings(self) -> dict[str, Any]:
        """Groups, and the columns as they were in training."""
        names = list(self._features.names)
        return {"groups": list(self.groups), "columns": names, "version": FEATURES_VERSION}

    def pair_prices(self, pairs: Sequence[TracePair]) -> Prices:
        """Charge two FLOPs per weight, and none for the columns."""
        n_weights = sum(a.size for name, a in self._weights.items() if name.startswith("layers."))
        return Prices(np.zeros(len(pairs)), np.full(len(pairs), 2.0 * n_weights))

    def prefix_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        """Charge a forward pass over each prefix where embeddings are read."""
        if not self.is_model:
            return Prices.none(len(prefixes))
        from deepprune.judge.features.embeddings import embedder  # torch only here

        return embedder().prefix_prices(prefixes)

    def _identity(self) -> str:
        digest = hashlib.blake2b(json.dumps(self.settings).encode(), digest_size=16)
        for name, array in sorted(self._weights.items()):
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        return digest.hexdigest()

    def _write_files(self, folder: Path) -> None:
        save_file(self._weights, folder / WEIGHTS)

    @classmethod
    def _from_record(cls, folder: Path, record: SavedJudge, device: str, **settings: Any) -> Self:
        """Read the weights; the device does not matter, since no network of torch scores."""
        judge = cls(record.settings["groups"], load_file(folder / WEIGHTS), name=record.name)
        if judge.settings != record.settings:
            raise InputError(
                f"the judge in {folder} was trained on other features than this version has: "
                "train it again."
            )
        return judge


@checked
class LinearArchitecture:
    """Architecture of ``model=linear``, see ``network.architecture.Architecture``.

    Args:
        groups: Names of feature groups, at least one.
        hidden: Units of a hidden layer; 0 for one linear layer.

    Raises:
        InputError: If a group is unknown.
    """

    name = "linear"
    shares_heads = False

    def __init__(
        self,
        groups: Sequence[str] = ("overlaps", "lengths"),
        hidden: Annotated[int, Ge(0)] = 0,
    ) -> None:
        self.groups, self._hidden = tuple(groups), hidden
        self._features = joined_groups(groups)

    @property
    def needs(self) -> frozenset[Need]:
        return self._features.needs

    @property
    def encoding(self) -> Callable[[Sequence[TracePair]], ColumnInputs]:
        from deepprune.judge.network.columns import ColumnInputs

        return lambda pairs: ColumnInputs(self._features.columns(pairs))

    def build(self, inputs: ColumnInputs | None = None) -> ColumnModel:
        """Build the untrained model; it standardises by the columns of ``inputs``."""
        from deepprune.judge.network.columns import ColumnModel

        model = ColumnModel(len(self._features.names), self._hidden)
        if inputs is not None:
            model.standardise(inputs.columns)
        return model

    def judge(self, model: nn.Module, seen_questions: frozenset[str]) -> LinearJudge:
        weights = {name: t.detach().cpu().numpy() for name, t in model.state_dict().items()}
        return LinearJudge(self.groups, weights, name=self.name, seen_questions=seen_questions)
