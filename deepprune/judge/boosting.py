"""Gradient-boosted trees: fitted by scikit-learn, kept and evaluated as plain arrays.

P: pairs, F: features, T: trees, M: nodes of all trees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from tqdm import tqdm

from deepprune.core.errors import InputError
from deepprune.core.protocols import TEXT_ALONE, FloatArray, IntArray, Need

_DTYPES = {
    "feature": np.int64,
    "threshold": np.float64,
    "left": np.int64,
    "right": np.int64,
    "value": np.float64,
    "roots": np.int64,
    "baseline": np.float64,
}
_ROWS = 1024  # pairs that walk the trees together, so that their arrays stay in the cache
_TREES = 50  # fitted between two steps of the progress bar; each step makes the bins afresh


@dataclass(frozen=True, slots=True)
class Boosting:
    """How the trees are fitted, see scikit-learn's ``HistGradientBoostingClassifier``.

    Args:
        trees: How many, >= 1.
        leaves: Most leaves of a tree, >= 2.
        learning_rate: Above 0.
        l2: L2 regularisation of the leaves, >= 0.
        min_leaf: Fewest pairs of a leaf, >= 1.
        question_balanced: Every question, and either class within it, weighs alike, see
            ``question_balanced_weights``; else every pair.

    Raises:
        InputError: If a value is out of range.
    """

    needs: ClassVar[frozenset[Need]] = TEXT_ALONE
    trees: int
    leaves: int
    learning_rate: float
    l2: float
    min_leaf: int
    question_balanced: bool = True

    def __post_init__(self) -> None:
        for name, least in (("trees", 1), ("leaves", 2), ("l2", 0), ("min_leaf", 1)):
            if not (value := getattr(self, name)) >= least:
                raise InputError(f"model.{name} must be at least {least}, got {value}.")
        if not self.learning_rate > 0:
            raise InputError(f"model.learning_rate must be above 0, got {self.learning_rate}.")

    def fit(self, features: FloatArray, labels: IntArray, questions: ArrayLike, seed: int) -> Trees:
        """Fit on pairs of several questions.

        Args:
            features: Finite, shape ``(P, F)``.
            labels: 1 or 0, both present, shape ``(P,)``.
            questions: The question of each pair, shape ``(P,)``.
            seed: Decides which pairs the bins are made from, where they are many.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits  # a requirement of scikit-learn

        weights = question_balanced_weights(labels, questions) if self.question_balanced else None
        model = HistGradientBoostingClassifier(
            max_leaf_nodes=self.leaves,
            learning_rate=self.learning_rate,
            l2_regularization=self.l2,
            min_samples_leaf=self.min_leaf,
            early_stopping=False,
            warm_start=True,
            random_state=seed,
        )
        # One thread: sums have one order, and on busy cores more were 20 times slower.
        with (
            threadpool_limits(limits=1),
            tqdm(total=self.trees, desc="trees", unit="tree", delay=2, leave=False) as progress,
        ):
            n_trees = 0
            while n_trees < self.trees:
                last, n_trees = n_trees, min(n_trees + _TREES, self.trees)
                model.set_params(max_iter=n_trees).fit(features, labels, sample_weight=weights)
                progress.update(n_trees - last)
        return Trees.of(model)


def question_balanced_weights(labels: ArrayLike, questions: ArrayLike) -> FloatArray:
    """Weights by which every question weighs alike, and either class within a question; mean 1.

    A question with one class alone weighs as much as the others. Shape ``(P,)``.

    >>> question_balanced_weights([1, 1, 1, 0, 1], ["a", "a", "a", "a", "b"])
    array([0.41666667, 0.41666667, 0.41666667, 1.25      , 2.5       ])
    """
    y = np.asarray(labels, dtype=np.int64)
    _, question = np.unique(np.asarray(questions), return_inverse=True)
    pairs = np.zeros((question.max() + 1, 2))
    np.add.at(pairs, (question, y), 1)
    weights = 1 / (pairs[question, y] * (pairs > 0).sum(1)[question])
    balanced: FloatArray = weights / weights.mean()
    return balanced


@dataclass(frozen=True, slots=True)
class Trees:
    """Boosted trees as arrays: in node n a pair goes left where ``x[feature] <= threshold``.

    A leaf is its own left and right child, children come after their parents.

    Attributes:
        feature: Feature that a node asks for, 0 in a leaf, shape ``(M,)``.
        threshold: Shape ``(M,)``.
        left: Node for ``x <= threshold``, shape ``(M,)``.
        right: Node for all others, shape ``(M,)``.
        value: What a leaf adds to the logit, shape ``(M,)``.
        roots: First node of each tree, shape ``(T,)``.
        baseline: What the trees add to, shape ``(1,)``.

    Raises:
        ValueError: If the arrays are no trees.
    """

    feature: IntArray
    threshold: FloatArray
    left: IntArray
    right: IntArray
    value: FloatArray
    roots: IntArray
    baseline: FloatArray

    def __post_init__(self) -> None:
        n = np.arange(len(self.feature))
        children = (self.left, self.right)
        nodes = (self.threshold, self.value, *children)
        is_leaf = self.left == self.right
        if not (
            all(a.shape == n.shape for a in nodes)
            and self.baseline.shape == (1,)
            and all(((c > n) | (is_leaf & (c == n))).all() and (c < n.size).all() for c in children)
            and ((self.roots >= 0) & (self.roots < n.size)).all()
            and all(np.isfinite(a).all() for a in (self.threshold, self.value, self.baseline))
            and (self.feature >= 0).all()
        ):
            raise ValueError("the arrays are no trees")

    @classmethod
    def of(cls, model: Any) -> Trees:
        """The trees of a fitted ``HistGradientBoostingClassifier`` for two classes."""
        trees = [stage[0].nodes for stage in model._predictors]  # no public way leads to them
        roots = np.cumsum([0] + [len(tree) for tree in trees[:-1]])
        nodes = np.concatenate(trees)
        offset = np.repeat(roots, [len(tree) for tree in trees])
        is_leaf, own = nodes["is_leaf"] == 1, np.arange(len(nodes))
        return cls(
            feature=np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int64),
            threshold=np.where(is_leaf, 0.0, nodes["num_threshold"]),
            left=np.where(is_leaf, own, nodes["left"] + offset).astype(np.int64),
            right=np.where(is_leaf, own, nodes["right"] + offset).astype(np.int64),
            value=nodes["value"].astype(np.float64),
            roots=roots.astype(np.int64),
            baseline=np.array(model._baseline_prediction, dtype=np.float64).reshape(1),
        )

    @property
    def n_features(self) -> int:
        """Fewest features that the trees can be given."""
        return int(self.feature.max()) + 1

    @property
    def digest(self) -> str:
        """Identifies the trees, 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for name, array in asdict(self).items():
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.astype(_DTYPES[name]).tobytes())
        return digest.hexdigest()

    def logits(self, features: FloatArray) -> FloatArray:
        """Sum of the leaves that each pair falls into, shape ``(P, F)`` -> ``(P,)``."""
        n_steps = self._depth()
        logits = np.empty(len(features))
        for start in range(0, len(features), _ROWS):
            rows = features[start : start + _ROWS]
            flat, row = rows.ravel(), np.arange(len(rows))[:, None] * rows.shape[1]
            node = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
            for _ in range(n_steps):
                goes_left = flat[row + self.feature[node]] <= self.threshold[node]
                node = np.where(goes_left, self.left[node], self.right[node])
            logits[start : start + _ROWS] = self.baseline[0] + self.value[node].sum(1)
        return logits

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors."""
        path.write_bytes(save(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Trees:
        """Read what ``save`` wrote.

        Raises:
            InputError: If it is damaged.
        """
        try:
            return cls(**_typed(load_file(path)))
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} must hold the trees of a judge ({error}): export again."
            ) from error

    def _depth(self) -> int:
        """Steps after which every pair is in a leaf."""
        level, depth = self.roots, 0
        while (inner := level[self.left[level] != level]).size:
            level = np.unique(np.concatenate([self.left[inner], self.right[inner]]))
            depth += 1
        return depth


def _typed(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    wrong: Sequence[str] = sorted(
        set(arrays) ^ set(_DTYPES) | {n for n, a in arrays.items() if a.dtype != _DTYPES.get(n)}
    )
    if wrong:
        raise ValueError(f"{wrong[0]} is amiss")
    return dict(arrays)
