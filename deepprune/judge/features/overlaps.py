"""Overlaps of two prefixes: Jaccard index and containment of numbers, equations, words, ...

P: pairs, F: columns, K: kinds of sets.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from deepprune.core.progress import Bar
from deepprune.core.protocols import FloatArray, IntArray
from deepprune.core.types import Prefix, TracePair
from deepprune.judge.baselines import NUMBER, find_equations, find_numbers, without_thousands

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
"""Counts of a text, see ``lengths``."""

NAMES = tuple(f"{kind}_{measure}" for kind in KINDS for measure in ("jaccard", "containment"))
"""Names of the columns."""

_WORD = re.compile(rf"\\?[^\W\d_]+|{NUMBER}|[^\w\s]")
_IDENTIFIER = re.compile(r"\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_RESULT = re.compile(rf"(?:=|\\approx|\b(?:is|be|get|gives|equals)\b)\s*[$(]*\\?\(?\s*(-?{NUMBER})")
_LAST_RESULTS = 5
_SKIP = 3
_TAILS = (64, 200)  # words
_CACHED_PREFIXES = 16_384  # some kB each at 500 tokens
_PAIRS = 8192  # whose shared elements are counted together, which bounds the memory


_Sets: TypeAlias = tuple[NDArray[np.uint32], ...]  # hashes without duplicates, by kind


def columns(pairs: Sequence[TracePair]) -> FloatArray:
    """Compute overlaps of pairs, finite, shape ``(P, F)``; swapping a pair changes nothing."""
    prefixes, ends = distinct_prefixes(pairs)
    bar = Bar(prefixes, desc="features, prefixes: ")
    found = [prefix_sets(prefix) for prefix in bar]
    made: list[FloatArray] = []
    for kind in range(len(KINDS)):
        sets = [of_prefix[kind] for of_prefix in found]
        sizes = np.array([len(s) for s in sets], dtype=np.float64)[ends]
        shared = _shared(sets, ends)
        made += [
            _ratio(shared, sizes.sum(1) - shared),
            _ratio(shared, sizes.min(1, initial=np.inf)),
        ]
    return np.column_stack(made)


def distinct_prefixes(pairs: Sequence[TracePair]) -> tuple[list[Prefix], IntArray]:
    """List the prefixes of pairs, each once, and the positions of each pair's two, ``(P, 2)``."""
    position: dict[int, int] = {}  # by identity: a prefix is in many pairs
    prefixes = [p for pair in pairs for p in (pair.first, pair.second)]
    ends = np.array([position.setdefault(id(p), len(position)) for p in prefixes], dtype=np.int64)
    return list({id(p): p for p in prefixes}.values()), ends.reshape(-1, 2)


def prefix_sets(prefix: Prefix) -> _Sets:
    """Return the hashes of a prefix's elements, by `KINDS`."""
    return _prefix_features(prefix.text, prefix.trace.question.text)[0]


def text_counts(prefix: Prefix) -> tuple[int, ...]:
    """Return the counts of a prefix's text, by `COUNTS`."""
    return _prefix_features(prefix.text, prefix.trace.question.text)[1]


def _shared(sets: Sequence[NDArray[np.uint32]], ends: IntArray) -> FloatArray:
    """Count the elements that the two sets of each pair share, ``(P, 2)`` -> ``(P,)``."""
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
def _prefix_features(text: str, question: str) -> tuple[_Sets, tuple[int, ...]]:
    """Compute sets by `KINDS` and counts by `COUNTS`, in one pass over the text."""
    plain = without_thousands(text)
    words = _WORD.findall(plain.lower())
    numbers = [word for word in words if word[0].isdecimal()]
    given = frozenset(find_numbers(question))
    times, word_times = Counter(numbers), Counter(words)
    derived = times.keys() - given
    results = _RESULT.findall(plain)
    tails = [[word for word in words[-n:] if word[0].isdecimal()] for n in _TAILS]
    return (
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
    """Hash n words in a row; two collide once in four billion."""
    known = {word: zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(words)}
    hashed = np.array([known[word] for word in words], dtype=np.uint64)
    mixed = np.zeros(max(0, len(words) - n + 1), dtype=np.uint64)
    for start in range(n):
        mixed = (mixed + hashed[start : start + len(mixed)]) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))
