import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import group

from deepprune.answers import EquivalenceChecker
from deepprune.commands.traces import main
from deepprune.core.errors import InputError
from deepprune.core.types import FinishReason
from deepprune.traces import TraceStore, classes, open_traces, summarise
from deepprune.traces.manifest import GENERATOR
from deepprune.traces.summary import mean_lengths, plurality_accuracy

SHARED = Path(__file__).parents[3] / "shared" / "traces"
ATTS = SHARED / "atts_math500_r1_llama8b.parquet"


@pytest.fixture
def store(tmp_path, make_trace):
    """Model m: classes 0 0 1 on q1, none answered on q2; model n: class 1 on q1."""
    store = TraceStore.create(tmp_path / "store", token_counter=GENERATOR, answers="boxed")
    store.append(
        [
            *(
                make_trace("q1", i, answer=str(k), answer_class=k, is_correct=k == 0)
                for i, k in enumerate((0, 0, 1))
            ),
            make_trace("q2", 0, is_correct=False),
            make_trace("q1", 0, model="n", answer="1", answer_class=1, is_correct=False),
        ]
    )
    return store


def test_mean_lengths_are_of_the_other_questions(tmp_path):
    """q0: 4 + 8; q1: 10 and a stopped 5; q2: 30. A stopped trace has tokens, and no end."""
    groups = [
        group(list("ab"), [4, 8], name="q0"),
        group(list("ab"), [10, 5], name="q1"),
        group(["a"], [30], name="q2"),
    ]
    traces = [t for each in groups for t in each.traces]
    traces[3] = replace(traces[3], finish_reason=FinishReason.PRUNED, answer=None, answer_class=-1)
    several = TraceStore.create(tmp_path / "several", token_counter="words", answers="source")
    several.append(traces)
    found = {key[1]: length for key, length in mean_lengths(several).items()}
    assert found == {"q0": 45 / 2, "q1": 42 / 3, "q2": 27 / 3}
    alone = TraceStore.create(tmp_path / "alone", token_counter="words", answers="source")
    alone.append(groups[0].traces)
    assert list(mean_lengths(alone).values()) == [6]


def test_summary(store):
    """m: 1 of 3 pairs agree. All: classes 0 0 1 1, so 2 of 6 pairs agree and the vote is tied."""
    m, n, everyone = summarise(store)
    assert (m.model, m.questions, m.traces, m.tokens) == ("m", 2, 4, 8)
    assert (m.same_answer, m.pairs) == (pytest.approx(1 / 3), 3)
    assert (m.accuracy, m.pass_at_1) == (0.5, pytest.approx((2 / 3 + 0) / 2))
    assert (m.cons_at_n, m.traces_per_question, m.answered) == (0.5, 2, 0.75)
    assert (n.same_answer, n.pairs, n.cons_at_n) == (None, 0, 0)
    assert (everyone.model, everyone.questions, everyone.traces) == (None, 2, 5)
    assert (everyone.same_answer, everyone.pairs) == (pytest.approx(2 / 6), 6)
    assert everyone.cons_at_n == pytest.approx(0.5 * 0.5)


def test_without_gold_there_is_no_accuracy(tmp_path, make_trace):
    store = TraceStore.create(tmp_path / "store", token_counter=GENERATOR, answers="boxed")
    store.append([make_trace(gold=None, answer="1", answer_class=0)])
    (row,) = summarise(store)
    assert (row.accuracy, row.pass_at_1, row.cons_at_n) == (None, None, None)


@pytest.mark.parametrize(
    ("classes", "correct", "expected"),
    [
        ([0, 0, 1], [1, 1, 0], 1.0),
        ([0, 1, 2], [1, 0, 0], 1 / 3),
        ([-1, -1, 1], [0, 0, 1], 1.0),  # a trace without an answer casts no vote
        ([-1, -1], [0, 0], 0.0),
    ],
)
def test_plurality_splits_ties(classes, correct, expected):
    correct = np.array(correct, float)
    assert plurality_accuracy(np.array(classes), correct) == pytest.approx(expected)


def test_show_and_check(store, make_trace, capsys):
    assert main(["show", str(store.path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["content_hash"] == store.content_hash
    assert shown["summary"][0]["same_answer"] == pytest.approx(1 / 3)

    assert main(["show", str(store.path)]) == 0
    printed, noted = capsys.readouterr()
    assert "all models" in printed
    assert f"store: {store.path}" in printed
    assert "answers: boxed, none in 20.0% of traces" in printed
    assert noted == ""
    store.append([make_trace("q3")], timeouts=1, timed_out=["d/q3"])
    assert main(["show", str(store.path)]) == 0
    assert "note: 33.3% of the traces have no answer by 'boxed'" in capsys.readouterr().err

    assert main(["check", str(store.path)]) == 0
    assert "in 1 question(s): d/q3." in capsys.readouterr().out
    (store.path / "part-00000.parquet").write_bytes(b"PAR1")
    assert main(["check", str(store.path)]) == 1
    assert "truncated" in capsys.readouterr().out


def test_questions_with_a_timeout_are_named(make_trace, monkeypatch):
    monkeypatch.setattr(classes, "EquivalenceChecker", partial(EquivalenceChecker, timeout_s=1))
    answers = [("q1", "2003^{2002^{2001}}"), ("q1", "x"), ("q2", "1"), ("q2", "2")]
    traces = [make_trace(q, i, answer=answer, gold=None) for i, (q, answer) in enumerate(answers)]
    _, counts = classes.class_answers(traces)
    assert (counts["timeouts"] > 0, counts["timed_out"]) == (True, ["d/q1"])


def test_import_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"prompt": "q", "response": "\\\\boxed{1}"}\n')
    out = tmp_path / "out"
    fields = ["--field", "text=response", "question=prompt"]
    options = ["--model", "m", "--sampling", "temperature=0.6", "max_tokens=384", "engine=x"]
    assert main(["import", str(path), "--out", str(out), *fields, *options]) == 0
    assert f"store: {out}" in capsys.readouterr().out
    manifest = TraceStore.open(out).manifest
    assert manifest.sampling == {"temperature": 0.6, "max_tokens": 384, "engine": "x"}
    with pytest.raises(InputError, match="--field must be NAME=VALUE, got 'text'"):
        main(["import", str(path), "--out", str(out), "--field", "text"])
    with pytest.raises(SystemExit) as exit_:
        main(["import", str(path)])
    assert exit_.value.code == 2


@pytest.mark.traces
@pytest.mark.skipif(not ATTS.exists(), reason="the recorded traces are not beside the checkout")
def test_recorded_traces_of_a_reasoning_model(tmp_path):
    """The figures that the traces' own notes give; the texts are cut, since none is read here."""
    table = pq.read_table(ATTS)
    cut = pc.utf8_slice_codeunits(table["trace"], 0, 100)
    pq.write_table(
        table.set_column(table.column_names.index("trace"), "trace", cut), tmp_path / "a.parquet"
    )
    (row,) = summarise(open_traces(tmp_path / "a.parquet", cache_dir=tmp_path))
    assert (row.questions, row.traces, row.traces_per_question) == (80, 6_400, 80)
    assert round(row.same_answer, 3) == 0.737
    assert round(row.accuracy, 3) == 0.752
    assert row.token_counter == "qwen"
