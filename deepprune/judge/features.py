"""The cheapest trained judge: what two prefixes share, weighed by boosted trees; no torch.

P: pairs, F: features, K: kinds of sets.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm import tqdm

from deepprune.data.pairs import labels_of
from deepprune.errors import InputError
from deepprune.files import sha256_file
from deepprune.judge.base import JudgeProvenance
from deepprune.judge.baselines import NUMBER, find_equations, without_thousands
from deepprune.judge.boosting import Boosting, Trees
from deepprune.judge.calibration import Calibration
from deepprune.judge.folder import (
    FEATURES,
    FORMAT,
    RECORD,
    damaged,
    read_record,
    rule_from_json,
    rule_to_json,
    write_folder,
    write_json,
)
from deepprune.judge.trained import TrainedJudge
from deepprune.protocols import FloatArray, IntArray
from deepprune.types import PrefixRule, TracePair

VERSION = 1
"""Of the features: trees are read back only by the version that they were fitted with."""

KINDS = (
    "numbers",
    "number_bigrams",
    "equations",
    "rare_numbers",
    "identifiers",
    "word_trigrams",
    "tail_64_numbers",
    "tail_200_numbers",
)
"""Sets of which a pair has the Jaccard index and the containment, ``|A & B| / min(|A|, |B|)``; both
are 0 where a prefix has none."""

HESITATIONS = ("wait", "hmm", "but", "alternatively")
COUNTS = ("characters", "tokens", "words", "numbers", "equals_signs", *HESITATIONS)
"""Counts of a prefix of which a pair has the lower, the higher and the difference."""

NAMES = (
    *(f"{kind}_{measure}" for kind in KINDS for measure in ("jaccard", "containment")),
    *(f"{count}_{measure}" for measure in ("low", "high", "difference") for count in COUNTS),
)
"""Columns of ``pair_features``."""

_WORD = re.compile(rf"\\?[^\W\d_]+|{NUMBER}|[^\w\s]")
_IDENTIFIER = re.compile(r"\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_TAILS = (64, 200)  # words
_CACHED_PREFIXES = 4096  # some kB each at 500 tokens
_PAIRS = 8192  # whose shared elements are counted together, which bounds the memory
_TREES = "trees.safetensors"


class _PrefixFeatures(NamedTuple):
    sets: tuple[NDArray[np.uint32], ...]  # hashes without duplicates, by kind
    counts: tuple[int, ...]  # of COUNTS, those of the text


def pair_features(pairs: Sequence[TracePair]) -> FloatArray:
    """Features of pairs by `NAMES`, finite, shape ``(P, F)``; swapping a pair changes nothing.

    They follow from the prefixes' texts, their numbers of tokens, and whether they are finished.
    """
    position: dict[int, int] = {}  # by identity: a prefix is in many pairs
    prefixes = [p for pair in pairs for p in (pair.first, pair.second)]
    ends = np.array([position.setdefault(id(p), len(position)) for p in prefixes], dtype=np.int64)
    distinct = list({id(p): p for p in prefixes}.values())
    found = [
        _prefix_features(p.text)
        for p in tqdm(distinct, desc="features", unit="prefix", delay=2, leave=False)
    ]
    ends = ends.reshape(-1, 2)
    columns: list[FloatArray] = []
    for kind in range(len(KINDS)):
        sets = [f.sets[kind] for f in found]
        sizes = np.array([len(s) for s in sets], dtype=np.float64)[ends]
        shared = _shared(sets, ends)
        columns += [
            _ratio(shared, sizes.sum(1) - shared),
            _ratio(shared, sizes.min(1, initial=np.inf)),
        ]
    counts = np.array(
        [
            (c[0], p.n_tokens, *c[1:])
            for p, c in zip(distinct, (f.counts for f in found), strict=True)
        ],
        dtype=np.float64,
    ).reshape(-1, len(COUNTS))
    a, b = counts[ends[:, 0]], counts[ends[:, 1]]
    return np.column_stack([*columns, np.minimum(a, b), np.maximum(a, b), np.abs(a - b)])


class FeaturesJudge(TrainedJudge):
    """Boosted trees on what two prefixes share: numbers, equations, words, lengths, hesitations.

    It costs calls only: 80 trees of 6 leaves take some 400 comparisons a pair, and what makes the
    features some microseconds, against 10^10 FLOPs of MiniLM. They are counted as no FLOPs.

    Args:
        trees: Fitted on `pair_features`.
        calibration: Logits to scores.
        name: Short name for tables.
        seen_questions: Hashes of the questions used for fitting it.
    """

    is_symmetric = True

    def __init__(
        self,
        trees: Trees,
        *,
        calibration: Calibration | None = None,
        name: str = "features",
        seen_questions: frozenset[str] = frozenset(),
    ) -> None:
        if trees.n_features > len(NAMES):
            raise ValueError(f"there are {len(NAMES)} features, the trees ask for more.")
        super().__init__(calibration, name=name, seen_questions=seen_questions)
        self.trees = trees

    @classmethod
    def fit(
        cls,
        pairs: Sequence[TracePair],
        settings: Boosting,
        *,
        seed: int = 0,
        seen_questions: frozenset[str] = frozenset(),
    ) -> FeaturesJudge:
        """Fit trees on labelled pairs of both classes.

        Args:
            pairs: Training pairs.
            settings: How.
            seed: See ``Boosting.fit``.
            seen_questions: Hashes of the questions of these and of the validation pairs.
        """
        traces = [pair.first.trace for pair in pairs]
        questions = [f"{t.question.dataset}\n{t.question.question_id}\n{t.model}" for t in traces]
        trees = settings.fit(pair_features(pairs), labels_of(pairs), questions, seed)
        return cls(trees, seen_questions=seen_questions)

    @property
    def provenance(self) -> JudgeProvenance:
        """Its fingerprint follows from features, trees and calibration."""
        settings = json.dumps([VERSION, NAMES, asdict(self.calibration), self.trees.digest])
        fingerprint = hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
        return JudgeProvenance(self._name, fingerprint, self._seen, self._path)

    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Uncalibrated logits, shape ``(len(pairs),)``."""
        return self.trees.logits(pair_features(pairs))

    def export(
        self,
        folder: Path | str,
        *,
        prefix_rule: PrefixRule | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the folder that ``load`` reads, atomically: ``judge.json`` and the trees' arrays.

        Args:
            folder: Where to; it must not exist.
            prefix_rule: The prefixes it was trained on, for whoever loads it.
            training: JSON values to keep with it: settings, numbers of pairs.

        Raises:
            InputError: If the folder exists.
        """

        def fill(temporary: Path) -> None:
            self.trees.save(temporary / _TREES)
            write_json(
                temporary / RECORD,
                {
                    "format": FORMAT,
                    "kind": FEATURES,
                    "name": self._name,
                    "features": {"version": VERSION, "names": NAMES},
                    "calibration": asdict(self.calibration),
                    "prefix_rule": rule_to_json(prefix_rule),
                    "seen_questions": sorted(self._seen),
                    "training": dict(training or {}),
                    "trees_sha256": sha256_file(temporary / _TREES),
                    "fingerprint": self.provenance.fingerprint,
                },
            )

        return write_folder(Path(folder), fill)

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", backbone: str | None = None
    ) -> FeaturesJudge:
        """Read an export; needs neither scikit-learn nor torch, and unpickles nothing.

        Args:
            path: What ``export`` wrote.
            device: ``auto`` or ``cpu``.
            backbone: ``None``: it has none.

        Raises:
            InputError: If files are missing or changed, it has other features, or another device or
                a backbone was asked for.
        """
        folder = Path(path)
        if backbone is not None or device not in ("auto", "cpu"):
            raise InputError(
                f"the judge in {folder} has no backbone and runs on the CPU, got backbone "
                f"{backbone!r} and device {device!r}: leave them null and auto."
            )
        values = read_record(folder)
        if values.get("features") != {"version": VERSION, "names": list(NAMES)}:
            raise InputError(
                f"the judge in {folder} was trained on other features than this version has: "
                "train it again."
            )
        if not (file := folder / _TREES).is_file():
            raise InputError(f"an export needs {_TREES}, missing in {folder}: export again.")
        try:
            if (found := sha256_file(file)) != values["trees_sha256"]:
                raise InputError(
                    f"{file} must have sha256 {values['trees_sha256']}, got {found}: the trees "
                    "changed after the export; export again."
                )
            rule_from_json(values["prefix_rule"])
            judge = cls(
                Trees.load(file),
                calibration=Calibration(**values["calibration"]),
                name=values["name"],
                seen_questions=frozenset(values["seen_questions"]),
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(folder, error) from error
        judge._path = folder
        return judge


def _shared(sets: Sequence[NDArray[np.uint32]], ends: IntArray) -> FloatArray:
    """Elements that the two sets of each pair share, ``(P, 2)`` -> ``(P,)``."""
    owner = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    _, column, times = np.unique(
        np.concatenate([*sets, np.empty(0, np.uint32)]), return_inverse=True, return_counts=True
    )
    if not times.size or times.max() < 2:
        return np.zeros(len(ends))
    common = times[column] > 1  # what one prefix alone has is shared with none
    ones = np.ones(int(common.sum()), dtype=np.float32)
    has = csr_array((ones, (owner[common], column[common])), shape=(len(sets), len(times)))
    return np.concatenate(
        [
            has[chunk[:, 0]].multiply(has[chunk[:, 1]]).sum(axis=1)
            for chunk in np.split(ends, range(_PAIRS, len(ends), _PAIRS))
        ]
    ).astype(np.float64)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


@functools.lru_cache(maxsize=_CACHED_PREFIXES)
def _prefix_features(text: str) -> _PrefixFeatures:
    words = _WORD.findall(without_thousands(text).lower())
    numbers = [word for word in words if word[0].isdecimal()]
    times, word_times = Counter(numbers), Counter(words)
    tails = [[word for word in words[-n:] if word[0].isdecimal()] for n in _TAILS]
    return _PrefixFeatures(
        (
            _hashes(times),
            _hashes({f"{a} {b}" for a, b in itertools.pairwise(numbers)}),
            _hashes(set(find_equations(text))),
            _hashes(n for n, k in times.items() if k == 1 or len(n) > 2),
            _hashes(set(_IDENTIFIER.findall(text))),
            _trigrams(words),
            *(_hashes(set(tail)) for tail in tails),
        ),
        (
            len(text),
            len(words),
            len(numbers),
            text.count("="),
            *(word_times[word] for word in HESITATIONS),
        ),
    )


def _hashes(values: Iterable[str]) -> NDArray[np.uint32]:
    crc: Callable[[bytes], int] = zlib.crc32
    return np.unique(
        np.array([crc(v.encode("utf-8", "surrogatepass")) for v in values], dtype=np.uint32)
    )


def _trigrams(words: Sequence[str]) -> NDArray[np.uint32]:
    """Hashes of three words in a row; two collide once in four billion."""
    known = {word: zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(words)}
    hashed = np.array([known[word] for word in words], dtype=np.uint64)
    mixed = np.zeros(max(0, len(words) - 2), dtype=np.uint64)
    for start in range(3):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashed[start : start + len(mixed)]
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))
