"""The cheapest trained judge: what two prefixes share, weighed by boosted trees; no torch.

P: pairs, F: features, K: kinds of sets.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm import tqdm

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.types import Prefix, PrefixRule, TracePair
from deepprune.data.pairs import groups_of, labels_of
from deepprune.judge.base import JudgeProvenance
from deepprune.judge.baselines import NUMBER, find_equations, find_numbers, without_thousands
from deepprune.judge.boosting import Boosting, Trees
from deepprune.judge.calibration import Calibration, calibration_from_json
from deepprune.judge.saved import (
    FEATURES,
    FORMAT,
    RECORD,
    check_runs_on_cpu,
    checked_file,
    damaged,
    read_record,
    rule_from_json,
    rule_to_json,
    write_folder,
    write_json,
)
from deepprune.judge.trained import TrainedJudge

VERSION = 2
"""Of the features: trees are read back only by the version that they were fitted with."""

KINDS = (
    "numbers",
    "number_occurrences",  # 7, 7 is a first and a second 7
    "number_bigrams",
    "number_trigrams",
    "number_skips",  # two numbers at most three apart
    "derived_numbers",  # not in the question
    "results",  # numbers after =, "is", "get", ...
    "last_results",
    "equations",
    "rare_numbers",
    "identifiers",
    "words",
    "word_bigrams",
    "word_trigrams",
    "tail_64_numbers",
    "tail_200_numbers",
)
"""Sets of which a pair has the Jaccard index and the containment, ``|A & B| / min(|A|, |B|)``; both
are 0 where a prefix has none."""

COUNTED_WORDS = (
    *("wait", "hmm", "but", "alternatively", "maybe", "check"),  # hesitation
    *("so", "let", "therefore", "answer"),  # progress
)
COUNTS = (
    "characters",
    "tokens",
    "words",
    "numbers",
    "distinct_numbers",
    "derived_numbers",
    "equals_signs",
    "question_marks",
    "paragraphs",
    "fractions",
    *COUNTED_WORDS,
)
"""Counts of a prefix of which a pair has the lower, the higher and the difference."""

NAMES = (
    *(f"{kind}_{measure}" for kind in KINDS for measure in ("jaccard", "containment")),
    *(f"{count}_{measure}" for measure in ("low", "high", "difference") for count in COUNTS),
)
"""Columns of ``pair_features``."""

_WORD = re.compile(rf"\\?[^\W\d_]+|{NUMBER}|[^\w\s]")
_IDENTIFIER = re.compile(r"\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_RESULT = re.compile(rf"(?:=|\\approx|\b(?:is|be|get|gives|equals)\b)\s*[$(]*\\?\(?\s*(-?{NUMBER})")
_LAST_RESULTS = 5
_SKIP = 3
_TAILS = (64, 200)  # words
_CACHED_PREFIXES = 16_384  # some kB each at 500 tokens
_PAIRS = 8192  # whose shared elements are counted together, which bounds the memory
_TREES = "trees.safetensors"


class _PrefixFeatures(NamedTuple):
    sets: tuple[NDArray[np.uint32], ...]  # hashes without duplicates, by kind
    counts: tuple[int, ...]  # of COUNTS, those of the text


def pair_features(pairs: Sequence[TracePair]) -> FloatArray:
    """Features of pairs by `NAMES`, finite, shape ``(P, F)``; swapping a pair changes nothing.

    They follow from the prefixes' texts, their numbers of tokens, and the question.
    """
    position: dict[int, int] = {}  # by identity: a prefix is in many pairs
    prefixes = [p for pair in pairs for p in (pair.first, pair.second)]
    ends = np.array([position.setdefault(id(p), len(position)) for p in prefixes], dtype=np.int64)
    distinct = list({id(p): p for p in prefixes}.values())
    found = [
        _prefix_features(p.text, p.trace.question.text)
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


def prefix_sets(prefix: Prefix) -> tuple[NDArray[np.uint32], ...]:
    """Hashes of what a prefix has of each of `KINDS`, without duplicates."""
    return _prefix_features(prefix.text, prefix.trace.question.text).sets


class FeaturesJudge(TrainedJudge):
    """Boosted trees on what two prefixes share: numbers, equations, words, lengths, hesitations.

    It costs calls only: 80 trees of 6 leaves take some 400 comparisons a pair, and what makes the
    features some 100 microseconds, against 10^10 FLOPs of MiniLM. They are counted as no FLOPs.

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
        trees = settings.fit(pair_features(pairs), labels_of(pairs), groups_of(pairs), seed)
        return cls(trees, seen_questions=seen_questions)

    @property
    def provenance(self) -> JudgeProvenance:
        """Its fingerprint follows from features, trees and calibration."""
        settings = json.dumps(
            [VERSION, NAMES, self.calibration.to_json(), self.trees.digest], sort_keys=True
        )
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
                    "calibration": self.calibration.to_json(),
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
        check_runs_on_cpu(folder, device, backbone)
        values = read_record(folder)
        if values.get("features") != {"version": VERSION, "names": list(NAMES)}:
            raise InputError(
                f"the judge in {folder} was trained on other features than this version has: "
                "train it again."
            )
        try:
            rule_from_json(values["prefix_rule"])
            judge = cls(
                Trees.load(checked_file(folder, _TREES, values["trees_sha256"], "trees")),
                calibration=calibration_from_json(values["calibration"]),
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
def _prefix_features(text: str, question: str) -> _PrefixFeatures:
    plain = without_thousands(text)
    words = _WORD.findall(plain.lower())
    numbers = [word for word in words if word[0].isdecimal()]
    given = frozenset(find_numbers(question))
    times, word_times = Counter(numbers), Counter(words)
    derived = times.keys() - given
    results = _RESULT.findall(plain)
    tails = [[word for word in words[-n:] if word[0].isdecimal()] for n in _TAILS]
    return _PrefixFeatures(
        (
            _hashes(times),
            _hashes(f"{n}#{k}" for n, total in times.items() for k in range(total)),
            _ngrams(numbers, 2),
            _ngrams(numbers, 3),
            _hashes(
                {
                    f"{a} {b}"
                    for k in range(1, _SKIP + 1)
                    for a, b in zip(numbers, numbers[k:], strict=False)
                }
            ),
            _hashes(derived),
            _hashes(set(results) - given),
            _hashes(set(results[-_LAST_RESULTS:])),
            _hashes(set(find_equations(text))),
            _hashes(n for n, k in times.items() if k == 1 or len(n) > 2),
            _hashes(set(_IDENTIFIER.findall(text))),
            _hashes(word for word in word_times if word[0].isalpha()),
            _ngrams(words, 2),
            _ngrams(words, 3),
            *(_hashes(set(tail)) for tail in tails),
        ),
        (
            len(text),
            len(words),
            len(numbers),
            len(times),
            len(derived),
            text.count("="),
            text.count("?"),
            text.count("\n\n"),
            text.count("\\frac"),
            *(word_times[word] for word in COUNTED_WORDS),
        ),
    )


def _hashes(values: Iterable[str]) -> NDArray[np.uint32]:
    crc: Callable[[bytes], int] = zlib.crc32
    return np.unique(
        np.array([crc(v.encode("utf-8", "surrogatepass")) for v in values], dtype=np.uint32)
    )


def _ngrams(words: Sequence[str], n: int) -> NDArray[np.uint32]:
    """Hashes of n words in a row; two collide once in four billion."""
    known = {word: zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(words)}
    hashed = np.array([known[word] for word in words], dtype=np.uint64)
    mixed = np.zeros(max(0, len(words) - n + 1), dtype=np.uint64)
    for start in range(n):
        mixed = (mixed + hashed[start : start + len(mixed)]) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))
