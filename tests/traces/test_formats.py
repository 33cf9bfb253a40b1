"""Each format by a fixture of our own making: recognised, and read to the right traces."""

import gzip
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepprune.commands.traces import main
from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason
from deepprune.traces import summarise
from deepprune.traces.formats import FORMATS
from deepprune.traces.importers import import_file

A, B = "so \\boxed{7}", "so \\boxed{8}"
STOP, LENGTH, UNKNOWN = FinishReason.STOP, FinishReason.LENGTH, FinishReason.UNKNOWN
THOUGHT = "<think>\n3+4\n</think>\n\n"
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3+4?"}]


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


def lm_eval(filter, **more):
    return {
        "doc_id": 5, "doc": {"question": "3+4?"}, "target": "3+4=7\n#### 7", "filter": filter,
        "resps": [[A, B]], "filtered_resps": ["7"], **more,
    }  # fmt: skip


def sample(epoch, text, reason):
    parts = [{"type": "reasoning", "reasoning": "3+4"}, {"type": "text", "text": text}]
    choice = {"message": said(parts), "stop_reason": reason}
    return {
        "id": 5, "epoch": epoch, "input": ASKED, "target": ["7"],
        "output": {"model": "m", "choices": [choice] if text else []}, "scores": {},
    }  # fmt: skip


def answered(custom_id, *choices, error=None):
    given = [{"message": message, "finish_reason": reason} for message, reason in choices]
    body = {"model": "m", "choices": given}
    response = {"status_code": 200, "body": body} if given else None
    return {"id": "b", "custom_id": custom_id, "response": response, "error": error}


BATCH = [
    answered("q-0", (said(A), "stop"), (said(None), "stop")),
    answered("q-1", (said(B, reasoning_content="3+4"), "length")),
    answered("q-2", error={"code": "batch_expired"}),
]
ASKING = [{"custom_id": f"q-{i}", "body": {"messages": ASKED}} for i in range(3)]
DETAILS = {
    "doc": {"query": "3+4?", "choices": ["6", "7"], "gold_index": 1, "id": "5", "task_name": "t"},
    "model_response": {"text": [A, B], "reasonings": [None, "3+4"]},
}
EVAL = {"eval": {"task": "t", "model": "m"}}
SAMPLES = [sample(2, B, "max_tokens"), sample(1, A, "stop"), sample(3, "", None)]
PROBED = {
    "qid": 5, "trace_idx": 1, "ground_truth": "7", "extracted_answer": "7",
    "confs": [1.5, 2.5, 3.5], "probes": [{"position": 2, "answer": "8", "avg_conf": 1.0}],
}  # fmt: skip

CASES = [
    # format, files, [(text, answer, is_correct, finish_reason, sample_id)]
    ("lm-eval", {"samples_t_2026-01-01T00-00-00.1.jsonl": [lm_eval("strict"), lm_eval("flexible")]},
     [(A, "7", True, UNKNOWN, 0), (B, "8", False, UNKNOWN, 1)]),
    ("lm-eval", {"samples_t_2026-01-01T00-00-00.jsonl": [lm_eval("none", resps=[A])]},
     [(A, "7", True, UNKNOWN, 0)]),
    ("lighteval", {"details_t_2026-01-01T00-00-00.parquet": [DETAILS]},
     [(A, "7", True, UNKNOWN, 0), (THOUGHT + B, "8", False, UNKNOWN, 1)]),
    ("inspect", {"log.eval": SAMPLES},
     [(THOUGHT + A, "7", True, STOP, 1), (THOUGHT + B, "8", False, LENGTH, 2)]),
    ("inspect", {"log.json": EVAL | {"samples": SAMPLES}},
     [(THOUGHT + A, "7", True, STOP, 1), (THOUGHT + B, "8", False, LENGTH, 2)]),
    ("batch", {"t.jsonl": BATCH, "input.jsonl": ASKING},
     [(A, "7", None, STOP, 0), (THOUGHT + B, "8", None, LENGTH, 1)]),
    ("batch", {"t.jsonl": [{**BATCH[0], "response": BATCH[0]["response"]["body"]}, *ASKING]},
     [(A, "7", None, STOP, 0)]),
    ("nemo-skills", {f"t-rs{i}.jsonl": [{"problem": "3+4?", "expected_answer": 7, "generation": g,
                                         "predicted_answer": a}]
                     for i, (g, a) in enumerate([(A, "7"), (B, None)])},
     [(A, "7", True, UNKNOWN, 0), (B, None, False, UNKNOWN, 1)]),
    ("qwen-math", {"t.jsonl": [{"idx": 5, "question": "3+4?", "gt_cot": "...", "gt": "7",
                                "code": [A, B], "pred": ["7", ""], "score": [True, False]}]},
     [(A, "7", True, UNKNOWN, 0), (B, None, False, UNKNOWN, 1)]),
    ("verl", {"t.jsonl": [{"input": "3+4?", "output": text, "gts": "7", "score": 1.0, "step": 100}
                          for text in (A, B)]},
     [(A, "7", True, UNKNOWN, 0), (B, "8", False, UNKNOWN, 1)]),
    ("mars", {"t.parquet": [PROBED]}, [("", "7", True, UNKNOWN, 1)]),
    ("generations", {"t.jsonl": [{"problem": "3+4?", "answer": "7", "uuid": "u",
                                  "generations": [A, B], "correctness_math_verify": [True, False],
                                  "finish_reasons": ["stop", "length"]}]},
     [(A, "7", True, STOP, 0), (B, "8", False, LENGTH, 1)]),
    ("generations", {"t.jsonl": [{"problem": "3+4?", "generated_solution": text, "used": True,
                                  "expected_answer": "7", "generation_model": "m"}
                                 for text in (A, B)]},
     [(A, "7", True, UNKNOWN, 0), (B, "8", False, UNKNOWN, 1)]),
    ("generations", {"t.parquet": [{"problem": "3+4?", "deepseek_reasoning": "3+4",
                                    "deepseek_solution": A, "ground_truth_solution": "Is $7$."}]},
     [(THOUGHT + A, "7", False, UNKNOWN, 0)]),
    ("chat", {"t.jsonl": [{"messages": [*ASKED, said(A)], "answer": "7"},
                          {"conversations": [{"from": "user", "value": "3+4?"},
                                             {"from": "assistant", "value": B}], "answer": "7"}]},
     [(A, "7", True, UNKNOWN, 0), (B, "8", False, UNKNOWN, 1)]),
    ("rows", {"t.ndjson": [{"question": "3+4?", "gold": "7", "finish_reason": "MAX_TOKENS",
                            "text": [{"type": "text", "text": A}]}]},
     [(A, "7", True, LENGTH, 0)]),
]  # fmt: skip


def write(path, content):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".eval":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", json.dumps(EVAL))
            for one in content:
                name = f"samples/{one['id']}_epoch_{one['epoch']}.json"
                archive.writestr(name, json.dumps(one))
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_text("\n".join(map(json.dumps, content)))
    return path


@pytest.mark.parametrize(("format", "files", "traces"), CASES, ids=[c[0] for c in CASES])
def test_a_format_is_recognised_and_read(tmp_path, format, files, traces):
    notes = []
    paths = [write(tmp_path / name, content) for name, content in files.items()]
    store = import_file(paths, tmp_path / "out", model="m", note=notes.append)
    (group,) = store.load()
    read = [(t.text, t.answer, t.is_correct, t.finish_reason, t.sample_id) for t in group.traces]
    assert read == traces
    assert (group.question.dataset, group.model) == ("t", "m")
    assert group.question.text == ("5" if format == "mars" else "3+4?")
    assert store.manifest.provenance["importer"] == format
    assert any(note.startswith(f"read as {format}: ") for note in notes)


def test_what_a_format_leaves_out_is_counted(tmp_path):
    notes = []
    files = [write(tmp_path / "out.jsonl", BATCH), write(tmp_path / "in.jsonl", ASKING)]
    import_file(files, tmp_path / "a", note=notes.append)
    assert "2 responses left out: 1 no text, 1 batch_expired." in notes
    lines = write(tmp_path / "s.jsonl", [lm_eval("strict"), lm_eval("flexible")])
    import_file(lines, tmp_path / "b", model="m", note=notes.append)
    assert (
        "s: the lines of filter 'strict' are read; those of flexible repeat their traces." in notes
    )
    with pytest.raises(
        InputError, match=r"has no field 'input.body.messages.*batch output of Open"
    ):
        import_file(files[0], tmp_path / "c")
    store = import_file(files[0], tmp_path / "c", fields={"question": "custom_id"})
    assert store.manifest.n_questions == 2


def test_confidences_and_forced_answers_without_text(tmp_path):
    path = write(tmp_path / "t.parquet", [PROBED])
    (trace,) = import_file(path, tmp_path / "out", model="m").load()[0].traces
    assert (trace.n_tokens, list(trace.token_confidence)) == (3, [1.5, 2.5, 3.5])
    (forced,) = trace.forced_answers
    assert (forced.n_tokens, forced.answer, forced.is_correct) == (2, "8", False)


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, monkeypatch, capsys):
    trace = {"text": A, "stop_reason": "stop", "num_tokens": 3}
    path = tmp_path / "t.pkl"
    path.write_bytes(pickle.dumps({"question": "3+4?", "ground_truth": "7", "all_traces": [trace]}))
    with pytest.raises(InputError, match=r"is a pickle: .* it is never read") as refused:
        import_file(path, tmp_path / "out")
    code = str(refused.value).split('"')[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    exec(code)
    (tmp_path / "t.jsonl").write_text(capsys.readouterr().out)
    (group,) = import_file(tmp_path / "t.jsonl", tmp_path / "out", model="m").load()
    assert group.traces[0].is_correct


ROWS = [{"question": "3+4?", "gold": "7", "model": "m", "text": text} for text in (A, B, A)]


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst", "t.NDJSON", "t.JSONL.GZ", "t.json"])
def test_compressed_and_differently_named_files(tmp_path, name):
    text = json.dumps(ROWS) if name == "t.json" else "\n".join(map(json.dumps, ROWS))
    data = text.encode()
    if name.lower().endswith(".gz"):
        data = gzip.compress(data)
    elif name.endswith(".zst"):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        data = sink.getvalue().to_pybytes()
    (tmp_path / name).write_bytes(data)
    store = import_file(tmp_path / name, tmp_path / "out")
    assert (store.datasets, store.manifest.n_traces) == (["t"], 3)
    (tmp_path / name).write_bytes(data[:-9])
    with pytest.raises(InputError, match=r"cannot be read|not JSON"):
        import_file(tmp_path / name, tmp_path / "cut")


def test_globs_folders_and_standard_input(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(2):
        write(folder / f"t-rs{i}.jsonl", ROWS)
    (folder / "notes.txt").write_text("no traces")
    for name in (folder, f"{folder}/*.jsonl"):
        store = import_file(name, tmp_path / f"out{len(str(name))}")
        assert (store.datasets, store.manifest.n_traces) == (["t"], 6)
        assert list(store.manifest.provenance["files"]) == ["t-rs0.jsonl", "t-rs1.jsonl"]
    with pytest.raises(InputError, match="is a trace store already"):
        import_file(store.path, tmp_path / "again")
    lines = "\n".join(map(json.dumps, ROWS)).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(["import", "-", "--out", str(tmp_path / "in"), "--dataset", "d"]) == 0
    assert "read as rows: text, question, gold, model." in capsys.readouterr().err


def test_fields_of_parquet_with_negative_indices_and_all_items(tmp_path):
    row = {"q": "3+4?", "runs": [{"log": ["x", A]}, {"log": ["x", B]}], "ref": 7.0}
    fields = {"text": "runs.*.log.-1", "question": "q", "gold": "nothing|ref"}
    path = write(tmp_path / "t.parquet", [row])
    (group,) = import_file(path, tmp_path / "out", fields=fields, model="m").load()
    assert [(t.text, t.is_correct) for t in group.traces] == [(A, True), (B, False)]


def test_bad_records_are_left_out_and_named(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    path.write_text("\n".join([lines[0], "{", lines[1], json.dumps({**ROWS[0], "text": None})]))
    notes = []
    store = import_file(path, tmp_path / "out", skip_bad=True, note=notes.append)
    assert store.manifest.n_traces == 2
    assert [note[:27] for note in notes[1:3]] == [
        "left out: t.jsonl, line 2 i",
        "left out: t.jsonl, line 4: ",
    ]
    assert notes[3] == "2 bad records left out, 2 traces read."


@pytest.mark.parametrize(
    ("gold", "read"),
    [
        ("7*10=<<7*10=70>>70 pens.\n#### 70", "70"),
        ("We add, so $x = 70$ and the result is \\boxed{70}.", "70"),
        ("The answer is: 70", "70"),
        (["2", "3"], "2, 3"),
        (70.0, "70.0"),
        (" ", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_a_gold_answer_is_read_like_that_of_a_trace(tmp_path, gold, read):
    path = write(tmp_path / "t.jsonl", [{**ROWS[0], "gold": gold}])
    (group,) = import_file(path, tmp_path / "out").load()
    assert group.question.gold == read
    assert (group.traces[0].is_correct is None) == (read is None)


def test_the_gold_answer_is_never_the_traces_own(tmp_path):
    notes = []
    rows = [{"question": "3+4?", "answer": "7", "prediction": text} for text in (A, B, B, "cut")]
    path = write(tmp_path / "t.jsonl", rows)
    fields = {"text": "prediction", "gold": "answer"}
    store = import_file(path, tmp_path / "out", fields=fields, model="m", note=notes.append)
    assert summarise(store)[0].accuracy == 0.25
    assert notes == ["read as rows: text=prediction, question, gold=answer."]
    with pytest.raises(InputError, match="has 'answer' and no 'gold'"):
        import_file(path, tmp_path / "b", fields={"text": "prediction"}, model="m")
    with pytest.raises(InputError, match="--field gold and --field answer both name 'answer'"):
        import_file(path, tmp_path / "b", fields={**fields, "answer": "answer"}, model="m")
    with pytest.raises(InputError, match="--field text is given twice, as 'a' and 'b'"):
        main(["import", str(path), "--out", str(tmp_path / "b"), "--field", "text=a", "text=b"])
    copied = [{**row, "gold": "7"} for row in rows]
    import_file(
        write(path, copied),
        tmp_path / "c",
        fields={"text": "prediction"},
        model="m",
        note=notes.append,
    )
    assert notes[-1].startswith("all traces have the right answer, as if the gold")


def test_the_formats_are_listed_and_documented(capsys):
    docs = (Path(__file__).parents[2] / "docs/import.md").read_text()
    assert main(["formats"]) == 0
    listed = capsys.readouterr().out
    for name, format in FORMATS.items():
        assert f"{name} " in listed
        assert f"`{name}`" in docs
        assert all(f"`{path}`" in docs for one in format.fields.values() for path in one.split("|"))
