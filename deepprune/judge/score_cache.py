"""Scores on disk: a pair's score depends on the judge's fingerprint and the texts, nothing else."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from deepprune.core.errors import InputError
from deepprune.core.protocols import FloatArray
from deepprune.core.types import TracePair

_CHUNK = 500  # keys of one query; older SQLite allows 999 variables
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID"
)


class ScoreCache:
    """A table of pair scores in an SQLite file.

    One process writes, others may read meanwhile (write-ahead log). A batch is stored whole or not
    at all, and what ``put_many`` returned from survives a killed process. Different judges share a
    file: the fingerprint is part of the key.

    Args:
        path: The file; its folder is made. ``None`` keeps the scores in memory.
        timeout_s: How long to wait for another process that writes.

    Raises:
        InputError: If the file is not a score cache.
    """

    def __init__(self, path: Path | str | None = None, *, timeout_s: float = 60.0) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self.path or ":memory:", timeout=timeout_s, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise InputError(
                f"a score cache must be an SQLite file of ours, got {self.path} ({error}): "
                "give another path, or delete it (scores are then computed again)."
            ) from error

    def __reduce__(self) -> tuple[type[ScoreCache], tuple[Path | None]]:
        """Another process opens the file itself; a cache in memory is a new one there."""
        return type(self), (None if self.path is None else self.path.absolute(),)

    def get_many(self, fingerprint: str, pairs: Sequence[TracePair]) -> FloatArray:
        """Scores of pairs, shape ``(len(pairs),)``; ``nan`` where a pair is not there."""
        scores: FloatArray = np.full(len(pairs), np.nan)
        keys = [pair_key(fingerprint, pair) for pair in pairs]
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            rows = self._db.execute(f"SELECT key, score FROM scores WHERE key IN ({marks})", chunk)
            known = dict(rows.fetchall())
            for i, key in enumerate(chunk, start):
                scores[i] = known.get(key, np.nan)
        return scores

    def put_many(self, fingerprint: str, pairs: Sequence[TracePair], scores: ArrayLike) -> None:
        """Store scores of pairs, in one transaction.

        Raises:
            ValueError: If there are not as many scores as pairs, or one lies outside [0, 1].
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (len(pairs),):
            raise ValueError(f"scores must have shape ({len(pairs)},), got {values.shape}.")
        if not ((values >= 0) & (values <= 1)).all():  # nan fails as well
            raise ValueError(f"scores must lie in [0, 1], got {values.min()} to {values.max()}.")
        rows = [
            (pair_key(fingerprint, pair), score)
            for pair, score in zip(pairs, values.tolist(), strict=True)
        ]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM scores").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def pair_key(fingerprint: str, pair: TracePair) -> bytes:
    """What a score depends on, hashed: judge, question, first and second prefix, in this order.

    Of a prefix its text and, where it has some, the answers forced out of it.
    """
    digest = hashlib.blake2b(digest_size=20)
    prefixes = (pair.first, pair.second)
    texts = [fingerprint, pair.first.trace.question.text, *(p.text for p in prefixes)]
    if any(p.trace.probes for p in prefixes):
        texts += [repr(p.probes) for p in prefixes]
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()
