import multiprocessing
import os
import time
from pathlib import Path

import pytest

from deepprune.core.errors import InputError
from deepprune.traces import importers, open_traces
from deepprune.traces.opening import cache_folder

LINES = "\n".join(
    f'{{"question": "q{q}", "text": "so \\\\boxed{{{i % 2}}}", "model": "m", "gold": "1"}}'
    for q in range(3)
    for i in range(4)
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text(LINES)
    return path


def test_the_pool():
    store = open_traces("pool")
    manifest = store.manifest
    counts = (manifest.n_questions, manifest.n_traces, manifest.n_tokens)
    assert counts == (80, 2560, 741_589)
    assert manifest.token_counter == "generator"
    assert store.check() == []
    first = store.group(store.refs()[0]).traces[0]
    assert first.text[: first.token_end[-1]] == first.text
    assert len(first.token_confidence) == first.n_tokens
    size = sum(p.stat().st_size for p in store.path.iterdir())
    assert size < 5_000_000


def test_a_file_is_imported_once(tmp_path, file, monkeypatch):
    cache = tmp_path / "cache"
    first = open_traces(file, cache_dir=cache)
    monkeypatch.setattr(importers, "import_file", None)  # a second import would fail
    again = open_traces(file, cache_dir=cache)
    assert again.content_hash == first.content_hash
    assert [p.name for p in cache.iterdir()] == [first.path.name]


def test_another_content_is_another_store(tmp_path, file):
    first = open_traces(file, cache_dir=tmp_path / "cache")
    file.write_text(LINES.replace("q0", "q9"))
    assert open_traces(file, cache_dir=tmp_path / "cache").path != first.path


def test_an_interrupted_import_leaves_nothing(tmp_path, file, monkeypatch):
    def interrupt(*args, **counts):
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(importers.TraceStore, "append_sorted", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_traces(file, cache_dir=cache)
    assert list(cache.iterdir()) == []
    assert open_traces(file, cache_dir=cache).manifest.n_traces == 12


def test_what_a_kill_left_is_no_store_and_goes_after_a_day(tmp_path, file):
    cache = tmp_path / "cache"
    left = cache / ".0123456789abcdef.x1y2"
    left.mkdir(parents=True)
    yesterday = time.time() - 90_000
    os.utime(left, (yesterday, yesterday))
    open_traces(file, cache_dir=cache)
    assert not left.exists()


def _open(path: str, cache: str) -> None:
    open_traces(path, cache_dir=Path(cache))


def test_two_processes_at_once(tmp_path, file):
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_open, args=(str(file), str(cache))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    (folder,) = cache.iterdir()
    assert open_traces(folder).check() == []


def test_the_faster_process_wins(tmp_path, file, monkeypatch):
    """Another process publishes its store while this one is still importing."""
    cache = tmp_path / "cache"
    append = importers.TraceStore.append

    def append_late(self, traces, **counts):
        append(self, traces, **counts)
        with monkeypatch.context() as patch:
            patch.setattr(importers.TraceStore, "append", append)
            open_traces(file, cache_dir=cache)

    monkeypatch.setattr(importers.TraceStore, "append", append_late)
    assert open_traces(file, cache_dir=cache).check() == []
    assert len(list(cache.iterdir())) == 1


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("DEEPPRUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "deepprune" / "stores"
    monkeypatch.setenv("DEEPPRUNE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "stores"


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'pool', a store folder, or a .jsonl, .ndjson, "):
        open_traces(tmp_path / "nowhere")
    (tmp_path / "a.csv").touch()
    with pytest.raises(InputError, match=r"must end in .*got '.*a\.csv'"):
        open_traces(tmp_path / "a.csv", cache_dir=tmp_path / "cache")
