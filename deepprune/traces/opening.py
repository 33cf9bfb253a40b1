"""Open traces by name: the bundled pool, a store, or a file, which is imported into a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.traces.manifest import MANIFEST
from deepprune.traces.progress import import_progress, print_note
from deepprune.traces.records import SUFFIXES
from deepprune.traces.schema import SCHEMA_VERSION
from deepprune.traces.store import TraceStore

POOL = Path(__file__).with_name("pool")
_DAY_S = 86_400


def open_traces(name_or_path: Path | str, cache_dir: Path | None = None) -> TraceStore:
    """Open traces by name or path.

    ``pool`` is the bundled pool (a folder of that name is ``./pool``). A store folder is opened. A
    file of a format that is recognised is imported with the default options into a cache folder
    named by its contents, so that it is opened quickly the next time. If it needs other options,
    import it with ``deepprune traces import`` first.

    Args:
        name_or_path: ``pool``, a store folder, or a file of one of the `FORMATS`.
        cache_dir: Folder of cached imports; by default ``$DEEPPRUNE_CACHE/stores``, else
            ``deepprune/stores`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``).

    Raises:
        InputError: If it does not exist or cannot be used.
    """
    path = POOL if str(name_or_path) == "pool" else Path(name_or_path)
    if not path.exists():
        raise InputError(
            f"traces must be 'pool', a store folder, or a {', '.join(SUFFIXES)} file that "
            f"exists, got {str(name_or_path)!r}."
        )
    store = TraceStore.open(path) if path.is_dir() else _imported(path, cache_dir or cache_folder())
    if not store.models:
        raise InputError(f"the trace store {str(path)!r} is empty: import or collect traces first.")
    return store


def cache_folder() -> Path:
    if own := os.environ.get("DEEPPRUNE_CACHE"):
        return Path(own) / "stores"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "deepprune" / "stores"


def _imported(path: Path, cache: Path) -> TraceStore:
    from deepprune.traces.importers import IMPORTER_VERSION, import_file

    # The file's name is part of the identity: it is the dataset if the file names none.
    identity = f"{sha256_file(path)} {path.name} {IMPORTER_VERSION} {SCHEMA_VERSION}"
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not (folder / MANIFEST).exists():
        _sweep(cache)
        with import_progress(path.name) as on_progress:
            try:
                import_file(path, folder, on_progress=on_progress, note=print_note)
            except InputError:
                if not (folder / MANIFEST).exists():  # else another process was faster
                    raise
    return TraceStore.open(folder)


def _sweep(cache: Path) -> None:
    """Remove temporary folders of killed imports that are older than a day."""
    for left in cache.glob(".*"):
        if time.time() - left.stat().st_mtime > _DAY_S:
            shutil.rmtree(left, ignore_errors=True)
