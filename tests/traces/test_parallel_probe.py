import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepprune.commands.traces import main
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.types import NO_ANSWER, FinishReason, ForcedAnswer
from deepprune.traces import TraceStore, open_traces, summarise
from deepprune.traces.importers import import_file
from deepprune.traces.manifest import GENERATOR, Manifest, Part
from deepprune.traces.parallel_probe import read_parallel_probe
from deepprune.traces.records import read_records
from deepprune.traces.schema import SCHEMAS, to_table

RECORDED = Path(__file__).parents[3] / "shared/traces/parallel_probe_qwen3_8b_aime24.json"

QUESTIONS = [
    {
        "question": "2+2?",
        "gold_answer": "4",
        "probe_freq": 10,
        "each_branch": [
            [["5", "ERR", "4", "4"], 35, "4"],  # the fourth would lie at 40
            [["", "8/2", None], 34, "4.0"],
            [["6", "6", "5", "6", "6"], 30, "ERR"],  # the fourth would begin at the end
            [["5"], 10, "3"],
        ],
        "final_answers_trace": ["4", "4.0", "ERR", "3"],
    },
    {
        "question": "1?",
        "gold_answer": "1",
        "probe_freq": 5,
        "each_branch": [[[], 0, ""], [["2"], 7, "1"]],
    },
    {
        "question": "1/2?",
        "gold_answer": "0.5",
        "probe_freq": 5,
        "each_branch": [[["1/2", "2"], 10, "2"], [["3", "\\frac{1}{2}", "ERR"], 15, "2"]],
    },
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(QUESTIONS))
    return path


def test_a_recording_without_text(tmp_path, file):
    """Final answers 4, 4.0 and 3 have the classes 0, 0, 1; what only probes say comes after: of
    those, 5 (three times) is more frequent than 6 (twice, as the rest lies beyond the end)."""
    store = import_file(file, tmp_path / "out", model="m")
    one = next(g for g in store.load() if g.question.text == "2+2?")
    assert [t.forced_answers for t in one.traces] == [
        (
            ForcedAnswer(10, "5", 2, False),
            ForcedAnswer(20, None, NO_ANSWER, False),
            ForcedAnswer(30, "4", 0, True),
            ForcedAnswer(35, "4", 0, True),
        ),
        (
            ForcedAnswer(10, None, NO_ANSWER, False),
            ForcedAnswer(20, "8/2", 0, True),
            ForcedAnswer(30, None, NO_ANSWER, False),
        ),
        (
            ForcedAnswer(10, "6", 3, False),
            ForcedAnswer(20, "6", 3, False),
            ForcedAnswer(30, "5", 2, False),
        ),
        (ForcedAnswer(10, "5", 2, False),),
    ]
    assert [(t.answer, t.answer_class, t.is_correct) for t in one.traces] == [
        ("4", 0, True),
        ("4.0", 0, True),
        (None, NO_ANSWER, False),
        ("3", 1, False),
    ]
    stop, unknown = FinishReason.STOP, FinishReason.UNKNOWN
    assert [t.finish_reason for t in one.traces] == [stop, stop, unknown, stop]
    assert [(t.text, t.n_tokens, set(t.token_end)) for t in one.traces] == [
        ("", n, {0}) for n in (35, 34, 30, 10)
    ]
    assert (store.manifest.token_counter, store.manifest.answers) == (GENERATOR, "source")
    assert store.check() == []

    again = import_file(store.path / "part-00000.parquet", tmp_path / "again")
    assert again.load() == store.load()


def test_a_probe_can_be_right_where_no_trace_is(tmp_path, file):
    store = import_file(file, tmp_path / "out", model="m")
    one = next(g for g in store.load() if g.question.text == "1/2?")
    assert [(t.answer, t.answer_class, t.is_correct) for t in one.traces] == [("2", 0, False)] * 2
    assert [t.forced_answers for t in one.traces] == [
        (ForcedAnswer(5, "1/2", 1, True), ForcedAnswer(10, "2", 0, False)),
        (
            ForcedAnswer(5, "3", 2, False),
            ForcedAnswer(10, r"\frac{1}{2}", 1, True),
            ForcedAnswer(15, None, NO_ANSWER, False),
        ),
    ]


def test_without_a_gold_answer_no_probe_is_right_or_wrong(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps([{**QUESTIONS[2], "gold_answer": None}]))
    (one,) = import_file(path, tmp_path / "out").load()
    assert [[p.answer_class for p in t.forced_answers] for t in one.traces] == [[1, 0], [2, 1, -1]]
    assert {p.is_correct for t in one.traces for p in t.forced_answers} == {None}
    assert {t.is_correct for t in one.traces} == {None}


def test_it_is_imported_on_the_fly_and_shown(tmp_path, file, capsys, monkeypatch):
    monkeypatch.setenv("DEEPPRUNE_CACHE", str(tmp_path / "cache"))
    assert main(["show", str(file)]) == 0
    assert "model: toy · text: none · tokens counted by: generator" in capsys.readouterr().out
    (row,) = summarise(open_traces(file))
    assert (row.dataset, row.traces, row.tokens, row.answered) == ("toy", 8, 141, 6 / 8)
    with pytest.raises(InputError, match="no texts to extract answers from by the style 'boxed'"):
        import_file(file, tmp_path / "out", answers="boxed")
    with pytest.raises(InputError, match=r"--field is not for .* are fixed"):
        import_file(file, tmp_path / "out", fields={"text": "a"})
    with pytest.raises(InputError, match=r"got 'probes' \(its name is parallel-probe now\)"):
        main(["import", str(file), "--out", str(tmp_path / "out"), "--format", "probes"])


def test_probes_take_the_classes_that_the_file_has(tmp_path):
    """The file says that 1 and 2 are one class. 4/4 is 1; 3 is new, beyond 7. Another file has the
    classes of the probes, too, but does not say which are right: the gold answer does, or the final
    answers of the same class, whatever they are."""
    columns = {
        "gold": ["3"] * 3,
        **dict.fromkeys(("dataset", "question_id", "question", "model", "text"), ["x"] * 3),
        "sample_id": [0, 1, 2],
        "answer": ["1", "2", "5"],
        "answer_class": [7, 7, 4],
        "is_correct": [True, True, False],
        "probes": [
            [{"n_tokens": 1, "answer": answer}] for answer in ("4/4", "2", "3")
        ],  # without classes, as in schema version 1
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (group,) = import_file(tmp_path / "a.parquet", tmp_path / "out").load()
    assert [t.answer_class for t in group.traces] == [7, 7, 4]
    assert [t.forced_answers[0].answer_class for t in group.traces] == [7, 7, 8]
    assert [t.forced_answers[0].is_correct for t in group.traces] == [True, True, True]

    classes = [4, 9, 8]
    for probes, class_id in zip(columns["probes"], classes, strict=True):
        probes[0]["answer_class"] = class_id
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    (group,) = import_file(tmp_path / "b.parquet", tmp_path / "b").load()
    assert [t.forced_answers[0].answer_class for t in group.traces] == classes
    assert [t.forced_answers[0].is_correct for t in group.traces] == [False, False, True]

    del columns["is_correct"]  # then all classes are found anew
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    (group,) = import_file(tmp_path / "c.parquet", tmp_path / "c").load()
    assert [t.answer_class for t in group.traces] == [0, 1, 2]
    assert [t.forced_answers[0].answer_class for t in group.traces] == [0, 1, 3]
    assert [t.forced_answers[0].is_correct for t in group.traces] == [False, False, True]


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_older_schema_is_read_and_appended_to(version, tmp_path, make_trace):
    old = make_trace(
        answer="4", answer_class=0, forced_answers=(ForcedAnswer(1, "4"), ForcedAnswer(2, None))
    )
    table = pa.Table.from_pylist(to_table([old]).to_pylist(), schema=SCHEMAS[version])
    path = tmp_path / "part-00000.parquet"
    pq.write_table(table, path)
    part = Part(path.name, 1, path.stat().st_size, sha256_file(path))
    Manifest(GENERATOR, "boxed", 1, 1, 2, parts=(part,), schema_version=version).write(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('  "n_without_text": 0,\n', ""))

    store = TraceStore.open(tmp_path)
    assert store.check() == []
    assert store.load()[0].traces == (old,)
    assert old.forced_answers[0].answer_class == NO_ANSWER

    new = make_trace(
        sample_id=1,
        answer="4",
        answer_class=0,
        forced_answers=(ForcedAnswer(1, "4", 0, True, tokens=2),),
    )
    store.append([new])
    store = TraceStore.open(tmp_path)
    assert store.manifest.schema_version == 3
    assert store.check() == []
    assert store.load()[0].traces == (old, new)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"a": 1}', "must be a JSON list of objects or a log of Inspect, got a JSON dict"),
        ([{**QUESTIONS[0], "gold_answer": None}, {}], "question 2 has no question, gold_answer"),
        ([{**QUESTIONS[0], "probe_freq": 0}], "probe_freq must be at least 1 token, got 0"),
        ([{**QUESTIONS[0], "question": 5}], "question 1: question must be a string, got '5'"),
        (
            [QUESTIONS[0], {**QUESTIONS[1], "each_branch": [[[], 5, "1"], [["1"], "5", "1"]]}],
            r"question 2, trace 2 must be \[forced answers, length in tokens, final answer\]",
        ),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message):
        import_file(path, tmp_path / "out")


@pytest.mark.traces
@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded traces are not beside the checkout")
def test_recorded_probes_of_a_reasoning_model(tmp_path):
    """The figures that the traces' own notes give.

    Those count two traces without an answer as a pair with the same answer; `summarise` looks at
    pairs with two answers. Only the last probes are classed here, since all take 20 seconds.
    """
    records = read_records(RECORDED, print)
    traces = list(read_parallel_probe(records, RECORDED, "aime24", "Qwen3-8B").traces)
    assert sum(len(r.forced_answers) for r in traces) == 106_303
    assert all(r.forced_answers[-1].answer == r.answer for r in traces)  # as the reader's notes say
    assert all(r.forced_answers[-1].n_tokens <= len(r.token_end) for r in traces)

    questions = json.loads(RECORDED.read_text())
    for question in questions:
        question["each_branch"] = [[p[-1:], n, a] for p, n, a in question["each_branch"]]
    (tmp_path / "cut.json").write_text(json.dumps(questions))
    (row,) = summarise(open_traces(tmp_path / "cut.json", cache_dir=tmp_path))
    assert (row.questions, row.traces, row.traces_per_question) == (30, 3_840, 128)
    assert (round(row.accuracy, 3), round(row.cons_at_n, 3)) == (0.757, 0.8)
    assert round(row.tokens / row.traces, -2) == 14_200
    assert round(row.same_answer, 3) == 0.781
    silent: dict[str, int] = {}
    for record in traces:
        question_id = record.question.question_id
        silent[question_id] = silent.get(question_id, 0) + (record.answer is None)
    same = row.same_answer * row.pairs + sum(n * (n - 1) // 2 for n in silent.values())
    assert round(same / (30 * 128 * 127 // 2), 3) == 0.763
