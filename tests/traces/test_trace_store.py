import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason, ForcedAnswer
from deepprune.traces import TraceStore
from deepprune.traces.manifest import GENERATOR


@pytest.fixture
def store(tmp_path):
    return TraceStore.create(tmp_path / "store", token_counter=GENERATOR, answers="boxed")


def test_a_trace_comes_back_as_it_went_in(store, make_trace):
    full = make_trace(
        text="añ😀",
        token_end=np.array([1, 1, 3], np.int32),
        finish_reason=FinishReason.LENGTH,
        answer="4",
        answer_class=0,
        is_correct=True,
        seed=2**40,
        source="run/7",
        token_confidence=np.array([0.5, 1.5, 2.5], np.float32),
        forced_answers=(ForcedAnswer(1, None), ForcedAnswer(3, "4", 0, True)),
    )
    bare = make_trace(sample_id=1, text="")
    store.append([bare, full])

    (group,) = TraceStore.open(store.path).load()
    assert group.traces == (full, bare)
    first, second = group.traces
    assert first.token_end.tolist() == [1, 1, 3]
    assert first.token_end.dtype == np.int32
    assert not first.token_end.flags.owndata  # a slice of the column, no copy
    assert first.token_confidence.tolist() == [0.5, 1.5, 2.5]
    assert (second.n_tokens, len(second.token_end), second.token_confidence) == (0, 0, None)


def test_groups_do_not_depend_on_how_traces_were_appended(tmp_path, make_trace):
    traces = [make_trace(q, i, model=m) for q in ("q2", "q1") for m in ("b", "a") for i in range(3)]
    loaded = []
    for name, step in (("one", len(traces)), ("many", 1), ("some", 5)):
        store = TraceStore.create(tmp_path / name, token_counter=GENERATOR, answers="boxed")
        for start in range(0, len(traces), step):
            store.append(traces[start : start + step])
        assert store.check() == []
        loaded.append(TraceStore.open(store.path).load())
    assert loaded[0] == loaded[1] == loaded[2]
    assert [(g.question.question_id, g.model) for g in loaded[0]] == [
        ("q1", "a"),
        ("q1", "b"),
        ("q2", "a"),
        ("q2", "b"),
    ]
    counts = (store.manifest.n_questions, store.manifest.n_traces, store.manifest.n_tokens)
    assert counts == (2, 12, 24)


def test_a_question_is_read_without_the_rest(store, make_trace):
    store.append([make_trace(f"q{q}", i) for q in range(4) for i in range(64)])
    file = pq.ParquetFile(store.path / "part-00000.parquet")
    assert file.metadata.num_row_groups == 4
    assert [len(store.group(ref).traces) for ref in store.refs()[:2]] == [64, 64]


def test_filters(store, make_trace):
    store.append([make_trace(), make_trace("q2", model="n"), make_trace("q3", dataset="e")])
    assert [g.model for g in store.load(models=["n"])] == ["n"]
    assert [ref.question.question_id for ref in store.refs(datasets=["e"])] == ["q3"]
    with pytest.raises(InputError, match=r"unknown model 'x'; the trace store has: m, n"):
        store.load(models=["x"])
    with pytest.raises(InputError, match=r"no traces of models \['n'\] and datasets \['e'\]"):
        store.load(models=["n"], datasets=["e"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_tokens": 3}, "3 tokens and 2 entries"),
        ({"token_end": np.array([2, 1])}, "token_end must grow"),
        ({"token_end": np.array([1, 3])}, "at most the 2 characters"),
        ({"n_tokens": -1}, "n_tokens must be >= 0, got -1 in d/q1, m, sample 0"),
        ({"token_confidence": [1.0]}, "token_confidence must have one entry per token"),
    ],
)
def test_a_bad_trace_is_refused(store, make_trace, fields, message):
    with pytest.raises(InputError, match=message):
        store.append([make_trace(**fields)])
    assert store.manifest.n_traces == 0


def test_duplicates_and_changed_questions_are_refused(store, make_trace):
    store.append([make_trace()])
    with pytest.raises(InputError, match=r"\('d', 'q1', 'm', 0\) appears twice"):
        store.append([make_trace()])
    with pytest.raises(InputError, match=r"\('d', 'q2', 'm', 5\) appears twice"):
        store.append([make_trace("q2", 5), make_trace("q2", 5)])
    with pytest.raises(InputError, match=r"two texts: '2\+2\?' and 'other'"):
        store.append([make_trace(sample_id=1, question="other")])
    with pytest.raises(InputError, match=r"two gold answers: '4' and None"):
        store.append([make_trace(sample_id=1, gold=None)])
    assert TraceStore.open(store.path).manifest.n_traces == 1


def test_a_part_outside_the_manifest_is_ignored_and_its_name_reused(store, make_trace):
    """A crash between writing the part and the manifest."""
    store.append([make_trace()])
    manifest = (store.path / "manifest.json").read_bytes()
    store.append([make_trace("lost")])
    (store.path / "manifest.json").write_bytes(manifest)

    again = TraceStore.open(store.path)
    assert [g.question.question_id for g in again.load()] == ["q1"]
    again.append([make_trace("q3")])
    assert [part.file for part in again.manifest.parts] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert [g.question.question_id for g in again.load()] == ["q1", "q3"]
    assert again.check() == []


def test_two_writers_do_not_overwrite_each_other(store, make_trace):
    other = TraceStore.open(store.path)
    store.append([make_trace()])
    with pytest.raises(InputError, match="was changed by another process"):
        other.append([make_trace("q2")])


def test_damage_is_named(store, make_trace):
    store.append([make_trace(sample_id=i) for i in range(100)])
    part = store.path / "part-00000.parquet"
    whole = part.read_bytes()

    part.write_bytes(whole[:-50])
    with pytest.raises(InputError, match=r"part-00000.parquet' is truncated"):
        TraceStore.open(store.path).load()
    assert "truncated" in TraceStore.open(store.path).check()[1]

    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 1
    part.write_bytes(flipped)
    assert "was changed: its SHA-256" in TraceStore.open(store.path).check()[0]

    part.write_bytes(b"x" * len(whole))
    assert "damaged and cannot be read" in TraceStore.open(store.path).check()[1]

    part.unlink()
    assert "is missing" in TraceStore.open(store.path).check()[0]


def test_a_foreign_part_is_named(store, make_trace, tmp_path):
    store.append([make_trace()])
    pq.write_table(pa.table({"a": [1]}), store.path / "part-00000.parquet")
    manifest = store.manifest.parts[0]
    size = (store.path / "part-00000.parquet").stat().st_size
    path = store.path / "manifest.json"
    path.write_text(path.read_text().replace(f'"bytes": {manifest.bytes}', f'"bytes": {size}'))
    with pytest.raises(InputError, match="is not a part of a trace store"):
        TraceStore.open(store.path).load()


def test_what_is_no_store_is_refused(tmp_path, store):
    with pytest.raises(InputError, match="must be a folder that exists"):
        TraceStore.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not a trace store: it has no manifest.json"):
        TraceStore.open(tmp_path)
    with pytest.raises(InputError, match="is empty"):
        store.load()
    with pytest.raises(InputError, match="is a trace store already"):
        TraceStore.create(store.path, token_counter=GENERATOR, answers="boxed")
    with pytest.raises(InputError, match="contains 'store'"):
        TraceStore.create(tmp_path, token_counter=GENERATOR, answers="boxed")

    path = store.path / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 4'))
    with pytest.raises(InputError, match=r"schema version 4, .* reads versions up to 3"):
        TraceStore.open(store.path)


def test_what_a_kill_left_of_the_first_manifest_does_not_block_the_folder(tmp_path):
    (tmp_path / ".manifest.json.tmp").write_text("{")
    made = TraceStore.create(tmp_path, token_counter=GENERATOR, answers="boxed")
    assert TraceStore.open(tmp_path).manifest == made.manifest
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".mine").write_text("")
    with pytest.raises(InputError, match=r"contains '\.mine'"):
        TraceStore.create(tmp_path / "other", token_counter=GENERATOR, answers="boxed")
