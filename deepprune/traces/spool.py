"""Long columns of traces in a temporary file, so that an import has only short ones in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import numpy as np

from deepprune.core.types import Trace


class Spool:
    """Texts, token ends and confidences of traces on disk.

    The file has no name: a killed process leaves nothing.

    Args:
        folder: A folder on the disk to use.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by __exit__
        self._places: dict[tuple[str, str, str, int], tuple[int, list[int]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """Count the traces with a text."""
        return len(self._places)

    def put(self, trace: Trace) -> Trace:
        """Write the long columns of a trace; return it without them. One without text is kept."""
        if not trace.text:
            return trace
        confidence = trace.token_confidence
        columns = [
            np.asarray(trace.token_end, np.int32).tobytes(),
            b"" if confidence is None else np.asarray(confidence, np.float32).tobytes(),
            trace.text.encode(),
        ]
        self._places[trace.key] = self._file.tell(), [len(column) for column in columns]
        self._file.write(b"".join(columns))
        return replace(
            trace, text="", token_end=(), token_confidence=None if confidence is None else ()
        )

    def get(self, trace: Trace) -> Trace:
        """Read the long columns of a trace that `put` returned."""
        if (place := self._places.get(trace.key)) is None:
            return trace
        offset, (n_ends, n_confidence, n_text) = place
        self._file.flush()
        data = os.pread(self._file.fileno(), n_ends + n_confidence + n_text, offset)
        end = n_ends + n_confidence
        confidence = np.frombuffer(data[n_ends:end], np.float32)
        return replace(
            trace,
            text=data[end:].decode(),
            token_end=cast(Sequence[int], np.frombuffer(data[:n_ends], np.int32)),
            token_confidence=None
            if trace.token_confidence is None
            else cast(Sequence[float], confidence),
        )
