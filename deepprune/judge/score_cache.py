"""Pair scores, each computed once and kept in an SQLite file.

The key is the judge's fingerprint and the two prefixes.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from deepprune.core.errors import InputError
from deepprune.core.protocols import FloatArray
from deepprune.core.types import TracePair
from deepprune.judge.base import Judge

_KEYS = 500  # of one query; older SQLite allows 999 variables
_PAIRS = 2048  # that are scored before they are recorded
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID"
)


class ScoreCache:
    """A table of pair scores in an SQLite file.

    One process writes while others may read (write-ahead log). Each batch is one transaction, and
    batches that were written survive a killed process. Several judges may share a file, because
    the fingerprint is part of the key.

    Args:
        path: The file; missing parent folders are created. ``None`` keeps the scores in memory.
        timeout_s: How long to wait for another process that has locked the file.

    Raises:
        InputError: If the file is not an SQLite database or cannot be opened.
    """

    def __init__(self, path: Path | str | None = None, *, timeout_s: float = 60.0) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self.path or ":memory:", timeout=timeout_s, isolation_level=None)
        try:
            _use_write_ahead_log(self._db, timeout_s)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise InputError(
                    f"a score cache must be an SQLite file, got {self.path} ({error}): "
                    "delete it or move it away (scores are then computed again)."
                ) from error
            raise InputError(
                f"cannot open the score cache {self.path} ({error}): check that its folder is "
                "writable and that no other run uses it, then start again."
            ) from error

    def __reduce__(self) -> tuple[type[ScoreCache], tuple[Path | None]]:
        # Another process opens the file itself; a cache in memory starts empty there.
        return type(self), (None if self.path is None else self.path.absolute(),)

    def get_many(self, fingerprint: str, pairs: Sequence[TracePair]) -> FloatArray:
        """Return scores, shape ``(len(pairs),)``; ``nan`` for a pair that is not stored."""
        scores: FloatArray = np.full(len(pairs), np.nan)
        keys = [pair_key(fingerprint, pair) for pair in pairs]
        for start in range(0, len(keys), _KEYS):
            chunk = keys[start : start + _KEYS]
            marks = ",".join("?" * len(chunk))
            rows = self._db.execute(f"SELECT key, score FROM scores WHERE key IN ({marks})", chunk)
            known = dict(rows.fetchall())
            for i, key in enumerate(chunk, start):
                scores[i] = known.get(key, np.nan)
        return scores

    def put_many(self, fingerprint: str, pairs: Sequence[TracePair], scores: ArrayLike) -> None:
        """Store the scores of ``pairs`` in one transaction."""
        values = np.asarray(scores, dtype=np.float64).tolist()
        rows = [(pair_key(fingerprint, p), score) for p, score in zip(pairs, values, strict=True)]
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
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _use_write_ahead_log(db: sqlite3.Connection, timeout_s: float) -> None:
    """Switch to the write-ahead log; retry for ``timeout_s`` while another process holds a lock.

    SQLite itself does not wait here: to avoid a deadlock it refuses at once to upgrade a read lock
    while another connection is about to write, for example to create the table of a new file.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            is_locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # without its subtype
            if not is_locked or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def pair_key(fingerprint: str, pair: TracePair) -> bytes:
    """Hash everything that a score depends on: judge, question, first and second prefix.

    A prefix is represented by its text and, if its trace has any, its forced answers.
    """
    digest = hashlib.blake2b(digest_size=20)
    prefixes = (pair.first, pair.second)
    texts = [fingerprint, pair.first.trace.question.text, *(p.text for p in prefixes)]
    if any(p.trace.forced_answers for p in prefixes):
        texts += [repr(p.forced_answers) for p in prefixes]
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def cached_scores(judge: Judge, cache: ScoreCache | None, pairs: Sequence[TracePair]) -> FloatArray:
    """Score pairs, shape ``(len(pairs),)``; only those not in ``cache`` are computed.

    A neural network's scores are recorded a chunk at a time, so that a kill costs little.

    Raises:
        InputError: If a score lies outside [0, 1] or is NaN, or scores are missing.
    """
    fingerprint = judge.provenance.fingerprint
    if cache is None or fingerprint is None or not judge.is_model or judge.reads_peers:
        return _checked_scores(judge, pairs)
    scores = cache.get_many(fingerprint, pairs)
    missing = np.flatnonzero(np.isnan(scores)).tolist()
    for start in range(0, len(missing), _PAIRS):
        chunk = missing[start : start + _PAIRS]
        todo = [pairs[i] for i in chunk]
        scores[chunk] = _checked_scores(judge, todo)
        cache.put_many(fingerprint, todo, scores[chunk])
    return scores


def _checked_scores(judge: Judge, pairs: Sequence[TracePair]) -> FloatArray:
    scores, name = judge.score(pairs), judge.provenance.name
    if scores.shape != (len(pairs),):
        raise InputError(f"judge {name!r} gave scores of shape {scores.shape} for {len(pairs)}.")
    is_score = (scores >= 0) & (scores <= 1)  # NaN is none
    if not is_score.all():
        raise InputError(f"judge {name!r} gave {scores[~is_score][0]}; a score lies in [0, 1].")
    return scores
