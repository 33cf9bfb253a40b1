import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import group

from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason
from deepprune.traces import TraceStore, open_traces
from deepprune.traces.importers import import_file
from deepprune.traces.opening import POOL


@pytest.fixture
def jsonl(tmp_path):
    def write(*lines):
        path = tmp_path / "runs.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts))
        return path

    return write


def normalised(**changes):
    columns = {
        "dataset": ["d"] * 3,
        "problem_id": ["p"] * 3,
        "problem": ["2+2?"] * 3,
        "answer": ["4"] * 3,
        "model": ["m", "m", "n"],
        "run": ["r1", "r2", "r1"],
        "sample_id": pa.array([0, 0, 0], pa.int32()),
        "trace": ["so \\boxed{4}", "\\boxed{5}", "hm"],
        "final_answer": ["4", "5", None],
        "is_correct": [True, False, False],
        "answer_group": [7, 3, -1],
        "finished": [True, True, False],
        "n_chars": [12, 9, 2],
        "extra": ["{}"] * 3,
    }
    return pa.table(columns | changes)


def test_normalised_keeps_the_answers_and_numbers_the_samples_anew(tmp_path):
    pq.write_table(normalised(), tmp_path / "a.parquet")
    store = import_file(tmp_path / "a.parquet", tmp_path / "out")
    m, n = store.load()
    assert [(t.sample_id, t.source, t.answer, t.answer_class, t.is_correct) for t in m.traces] == [
        (0, "r1/0", "4", 7, True),
        (1, "r2/0", "5", 3, False),
    ]
    (silent,) = n.traces
    assert (silent.answer, silent.answer_class, silent.is_correct) == (None, -1, False)
    assert [t.finish_reason for t in (*m.traces, silent)] == [
        FinishReason.STOP,
        FinishReason.STOP,
        FinishReason.UNKNOWN,
    ]
    manifest = store.manifest
    assert (manifest.answers, manifest.token_counter) == ("source", "qwen")
    assert manifest.provenance["file"] == "a.parquet"
    assert manifest.provenance["importer"] == "normalised"


def test_answers_can_be_extracted_anew(tmp_path):
    pq.write_table(normalised(), tmp_path / "a.parquet")
    store = import_file(tmp_path / "a.parquet", tmp_path / "out", answers="boxed")
    assert [t.answer_class for t in store.load()[0].traces] == [0, 1]
    assert store.manifest.answers == "boxed"


def test_normalised_duplicates_are_refused(tmp_path):
    pq.write_table(normalised(run=["r1", "r1", "r1"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"\('d', 'p', 'm', 'r1', 0\) appears twice"):
        import_file(tmp_path / "a.parquet", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]  # nothing half-made


def test_a_part_of_a_store_keeps_what_the_manifest_knew(tmp_path):
    pq.write_table(normalised(), tmp_path / "a.parquet")
    first = import_file(tmp_path / "a.parquet", tmp_path / "one")
    second = import_file(first.path / "part-00000.parquet", tmp_path / "two")
    assert second.load() == first.load()
    assert second.manifest.token_counter == "qwen"
    assert second.manifest.answers == "source"


def test_traces_that_were_stopped_stay_stopped(tmp_path):
    """Read as a file, a part of a recording is as open as in its store."""
    traces = group(["a", "b"], 5).traces
    stopped = [replace(t, finish_reason=FinishReason.PRUNED) for t in traces]
    store = TraceStore.create(tmp_path / "s", token_counter="generator", answers="boxed")
    store.append(stopped)
    again = import_file(tmp_path / "s" / "part-00000.parquet", tmp_path / "two")
    assert [t.finish_reason for t in again.load()[0].traces] == [FinishReason.PRUNED] * 2


def test_rows_in_any_order_give_the_same_bytes(tmp_path):
    """Texts, token ends and confidences pass through a temporary file, in the order of the rows."""
    table = pq.read_table(sorted(POOL.glob("part-*.parquet"))[0]).slice(0, 96)
    texts = pa.array(f"{text}é" for text in table["text"].to_pylist())
    table = table.set_column(table.column_names.index("text"), "text", texts)
    shuffled = table.take(np.random.default_rng(0).permutation(96))
    stores = []
    for name, rows in (("one", table), ("two", shuffled)):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
        stores.append(import_file(tmp_path / f"{name}.parquet", tmp_path / name))
    assert stores[0].content_hash == stores[1].content_hash
    assert stores[0].check() == []
    for name in ("text", "token_end", "token_confidence"):
        assert stores[1].columns([name])[name].to_pylist() == table[name].to_pylist()


def test_few_texts_are_in_memory_at_a_time(tmp_path):
    rows = [
        {"dataset": "d", "question_id": f"{i // 4:03}", "question": "q?", "model": "m",
         "sample_id": i, "text": f"{i:03}" + "x" * 199_997, "token_end": [200_000], "answer": "1"}
        for i in range(400)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=40)
    del rows
    tracemalloc.start()
    import_file(tmp_path / "a.parquet", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000  # the file has 80 million characters


def test_native_columns_of_other_types_and_without_token_ends(tmp_path):
    table = pa.table(
        {
            "dataset": ["d", "d"],
            "question_id": [3, 3],
            "question": ["1/2+1/2?"] * 2,
            "model": ["m", "m"],
            "sample_id": [0, 1],
            "text": ["\\boxed{1}", "\\boxed{1.0}"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (group,) = import_file(tmp_path / "a.parquet", tmp_path / "out").load()
    assert group.question.question_id == "3"
    assert [(t.answer_class, t.is_correct) for t in group.traces] == [(0, None), (0, None)]

    nulls = table.set_column(5, "text", pa.array(["a", None]))
    pq.write_table(nulls, tmp_path / "b.parquet")
    with pytest.raises(InputError, match="text must have a value in every row"):
        import_file(tmp_path / "b.parquet", tmp_path / "out2")


def test_jsonl_with_a_field_map(tmp_path, jsonl):
    path = jsonl(
        {"prompt": "1+1?", "out": {"choices": [{"text": "\\boxed{2}"}]}, "ref": 2, "stop": "stop"},
        "",
        {"prompt": "1+1?", "out": {"choices": [{"text": "\\boxed{2.0}"}]}, "ref": 2, "stop": "x"},
        {"prompt": "1+2?", "out": {"choices": [{"text": "none"}]}, "ref": 3, "stop": "length"},
    )
    fields = {
        "text": "out.choices.0.text",
        "question": "prompt",
        "gold": "ref",
        "finish_reason": "stop",
    }
    store = import_file(path, tmp_path / "out", fields=fields, model="m")
    by_question = {g.question.text: g for g in store.load()}
    one = by_question["1+1?"]
    assert one.question.dataset == "runs"
    assert [(t.sample_id, t.answer_class, t.is_correct) for t in one.traces] == [
        (0, 0, True),
        (1, 0, True),
    ]
    (silent,) = by_question["1+2?"].traces
    assert (silent.answer, silent.answer_class, silent.is_correct) == (None, -1, False)
    assert silent.finish_reason is FinishReason.LENGTH
    assert store.manifest.answers == "auto"
    assert store.manifest.provenance["options"]["fields"] == fields


def test_jsonl_with_a_list_of_traces_per_line_and_half_a_surrogate(tmp_path, jsonl):
    path = jsonl({"question": "q?", "text": ["a\ud83d", "b"], "answer": ["x", None], "model": "m"})
    store = import_file(path, tmp_path / "out", dataset="mine")
    (group,) = store.load()
    assert [(t.text, t.answer, t.is_correct) for t in group.traces] == [
        ("a\ufffd", "x", None),
        ("b", None, None),
    ]
    assert store.datasets == ["mine"]
    assert store.manifest.answers == "source"


GOOD = {"question": "q", "text": "t", "model": "m"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{"], "line 2 is not JSON"),
        ([GOOD, "[1]"], "line 2 must be a JSON object"),
        ([GOOD, {"question": "q"}], "line 2 has no field 'text' for 'text'; it has question"),
        ([{**GOOD, "text": 5}], "line 1: text must be a string, got '5'"),
        ([{"question": "q", "text": "t"}], "line 1 has no model: add --model"),
        ([{**GOOD, "text": None}], r"line 1: text must be .*\(--skip-bad leaves such records out"),
        ([{**GOOD, "sample_id": "a"}], "line 1: sample_id must be an integer"),
        ([{**GOOD, "seed": 2**64 - 1}], "line 1: seed must be an integer of 64 bits, got '184"),
        (
            [{**GOOD, "text": ["a", "b"], "finish_reason": ["stop"]}],
            r"line 1: finish_reason must be a list of 2, as text is, got \W*stop",
        ),
        ([{**GOOD, "answer": "4"}], "line 1 has 'answer' and no 'gold': if it is the correct"),
        (
            [{**GOOD, "sample_id": 1}, GOOD, {**GOOD, "sample_id": 1}],
            r"\('runs', '\w{12}', 'm', 1\) is in runs.jsonl, line 1 and again in .*line 3",
        ),
        ([""], "has no traces"),
    ],
)
def test_a_bad_line_is_named(tmp_path, jsonl, lines, message):
    with pytest.raises(InputError, match=message):
        import_file(jsonl(*lines), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["runs.jsonl"]


def test_what_cannot_be_imported_is_refused(tmp_path, jsonl):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="unknown field 'txt'; the fields are text, question"):
        import_file(jsonl(GOOD), out, fields={"txt": "a"})
    with pytest.raises(InputError, match="--answers source needs answers in the file"):
        import_file(jsonl(GOOD), out, answers="source")
    with pytest.raises(InputError, match="answer style must be one of"):
        import_file(jsonl(GOOD), out, answers="magic")
    pq.write_table(pa.table({"id": [1], "response": ["x"]}), tmp_path / "foreign.parquet")
    with pytest.raises(InputError, match=r"columns are id, response. Name them with --field text"):
        open_traces(tmp_path / "foreign.parquet", cache_dir=tmp_path / "cache")
    lacking = normalised().drop_columns(["run", "answer"])
    pq.write_table(lacking, tmp_path / "lacking.parquet")
    with pytest.raises(InputError, match=r"has no answer, run, required by format .normalised."):
        import_file(tmp_path / "lacking.parquet", out)
    whole = (tmp_path / "lacking.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-9])
    with pytest.raises(InputError, match="truncated, damaged or of another"):
        import_file(tmp_path / "cut.parquet", out)
    with pytest.raises(InputError, match=r"--model is not for .*format .normalised. are fixed"):
        import_file(tmp_path / "lacking.parquet", out, model="m")
    assert not out.exists()
