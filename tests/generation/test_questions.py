"""Sources of questions: the shipped data sets' columns, and what is refused."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepprune.cli import composed
from deepprune.config import build_live
from deepprune.core.errors import InputError
from deepprune.core.types import Question
from deepprune.generation.questions import (
    Columns,
    HubQuestions,
    QuestionFile,
    lettered,
    questions_hash,
)
from deepprune.traces import open_traces
from deepprune.traces.source import question_id_of


def load(*overrides):
    config = composed("collect", overrides)
    return build_live.question_set(config), config


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [{"question": "1+1?", "gold": 2, "question_id": 7}, {"question": "1+2?", "gold": "3"}]


def test_the_pool_is_the_default_and_needs_nothing():
    questions, _ = load()
    assert questions == [ref.question for ref in open_traces("pool").refs()]
    assert len(questions) == 80


def test_a_file_of_lines(tmp_path):
    path = write_lines(tmp_path / "sums.jsonl", ROWS)
    questions, _ = load("questions=file", f"questions.path={path}")
    assert questions == [
        Question("sums", "7", "1+1?", "2"),
        Question("sums", question_id_of("1+2?"), "1+2?", "3"),
    ]


def test_a_parquet_file_with_other_names_and_no_gold(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"q": ["1+1?", "1+2?"], "level": ["easy", "hard"]}), path)
    columns = Columns(question="q", gold=None, question_id=None)
    source = QuestionFile(path=str(path), dataset="d", columns=columns, where={"level": "har"})
    assert source.load() == [Question("d", question_id_of("1+2?"), "1+2?", None)]


def test_ids_and_limit_choose(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [{**ROWS[0], "question_id": i} for i in range(5)])
    whole = QuestionFile(path=str(path)).load()
    assert QuestionFile(path=str(path), limit=2).load() == whole[:2]
    assert QuestionFile(path=str(path), ids=["4", "1"]).load() == [whole[4], whole[1]]
    assert questions_hash(whole) != questions_hash(whole[:2])


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"gold": 0, "question_id": 0}, "0"),
        ({"gold": False, "question_id": "0"}, "False"),
        ({"gold": "", "question_id": "0"}, None),
        ({"gold": " \n", "question_id": 0}, None),
        ({"gold": float("nan"), "question_id": 0}, None),
        ({"gold": None, "question_id": 0}, None),
    ],
)
def test_what_is_blank_is_no_gold_answer(tmp_path, row, gold):
    path = write_lines(tmp_path / "t.jsonl", [{"question": "?", **row}])
    assert QuestionFile(path=str(path)).load() == [Question("t", "0", "?", gold)]


@pytest.mark.parametrize("id_", ["", "  ", None, float("nan")])
def test_without_an_id_a_hash_of_the_text_is_it(tmp_path, id_):
    path = write_lines(tmp_path / "t.jsonl", [{"question": "?", "question_id": id_}])
    assert QuestionFile(path=str(path)).load()[0].question_id == question_id_of("?")


CHOICES = {"question": "2+2?", "gold": 4, "a": 3, "b": 5.5}
WRONG = "questions.columns.wrong=[a,b]"


def test_choices_may_be_numbers(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [CHOICES])
    source = QuestionFile(path=str(path), columns=Columns(wrong=["a", "b"]))
    (question,) = source.load()
    lines = question.text.splitlines()
    assert {line[3:] for line in lines[2:]} == {"4", "3", "5.5"}
    assert f"{question.gold}) 4" in lines


@pytest.mark.parametrize("prompt", ["boxed", "reasoning"])
def test_questions_with_choices_need_a_prompt_for_letters(tmp_path, prompt):
    path = write_lines(tmp_path / "t.jsonl", [CHOICES])
    asked = ["questions=file", f"questions.path={path}", WRONG]
    with pytest.raises(InputError, match="answer_style 'boxed' reads no letters: take prompt=ch"):
        load(*asked, f"prompt={prompt}")
    assert load(*asked, "prompt=reasoning_choice")[0]


@pytest.mark.parametrize(
    ("rows", "overrides", "said"),
    [
        (ROWS, "questions.columns.gold=solution", "has no column 'solution'; it has question"),
        ([*ROWS, ROWS[0]], "", "has '7' twice"),
        ([ROWS[1]] * 2, "", r"hash of the text: remove the repeated question"),
        ([], "", "has no questions"),
        (ROWS, "+questions.where.gold=x", "has no questions"),
        ([*ROWS, {"question": " ", "gold": 1}], "", "row 3 of .* has ' '"),
        (["1+1?"], "", "line 1 must be a JSON object"),
        (ROWS, "questions.ids=[70]", "has no question '70'; did you mean 7"),
        (ROWS, "questions.limit=0", "limit must be >= 1 or null, got 0"),
        (ROWS, "questions.path=no.jsonl", "file that exists, got 'no.jsonl'"),
        ([{"question": "?", "gold": [1, 2]}], "", "gold must be a text or a number, but row 1 of"),
        ([*ROWS, {"question": "?", "gold": {"x": 1}}], "", "gold must be .*, but row 3 of"),
        ([{"question": "?", "question_id": ["a"]}], "", "question_id must be a text or a number"),
        ([CHOICES | {"b": " 4 "}], WRONG, "b must differ from gold, but row 1 of .* has ' 4 '"),
        ([CHOICES, CHOICES | {"b": None}], WRONG, "b must be a choice in every row, but row 2"),
        ([CHOICES], f"questions.columns.wrong={['a'] * 26}", "at most 25 columns, got 26"),
    ],
)
def test_bad_questions_are_explained(tmp_path, rows, overrides, said):
    path = write_lines(tmp_path / "t.jsonl", rows)
    asked = ["prompt=choice" if "wrong" in overrides else "", overrides]
    with pytest.raises(Exception, match=said):  # an InputError, or Hydra's that `advise` explains
        load("questions=file", f"questions.path={path}", *filter(None, asked))


def test_choices_are_lettered_by_the_seed_and_the_question_alone():
    golds = Counter(lettered("?", ["r", "x", "y", "z"], 0, str(i))[1] for i in range(400))
    assert set(golds) == set("ABCD")
    assert min(golds.values()) > 70
    text, gold = lettered("Which?", ["right", "x", "y", "z"], 0, "q")
    assert f"\n{gold}) right" in text
    assert lettered("Which?", ["right", "x", "y", "z"], 0, "q") == (text, gold)


MATH_ROW = {
    "problem": "What is $1+1$?", "solution": "Count.", "answer": "2", "subject": "Algebra",
    "level": 1, "unique_id": "test/algebra/1.json",
}  # fmt: skip
AIME_ROWS = [
    {
        "id": i, "problem": f"Find {i}.", "solution": "", "answer": str(i),
        "url": f"https://artofproblemsolving.com/wiki/index.php/{year}_AIME_I_Problems/Problem_1",
    }
    for i, year in enumerate([2022, 2023, 2024])
]  # fmt: skip
GPQA_ROW = {
    "Question": "Which is even?\n", "Correct Answer": "two\n", "Incorrect Answer 1": "one",
    "Incorrect Answer 2": "three", "Incorrect Answer 3": "five ", "Record ID": "rec1",
    "Explanation": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rows", "split", "expected"),
    [
        ("math500", [MATH_ROW], "test", ("test/algebra/1.json", "What is $1+1$?", "2")),
        ("aime22", AIME_ROWS, "train", ("0", "Find 0.", "0")),
        ("aime23", AIME_ROWS, "train", ("1", "Find 1.", "1")),
        ("aime24", AIME_ROWS, "train", ("2", "Find 2.", "2")),
        ("aime25", [{"problem": "Find x.", "answer": "70", "id": "0"}], "test",
         ("0", "Find x.", "70")),
        ("gpqa_diamond", [GPQA_ROW], "train", None),
    ],
)  # fmt: skip
def test_the_shipped_data_sets_read_a_folder_of_the_same_columns(
    tmp_path, monkeypatch, name, rows, split, expected
):
    """The code path of the hub, with a local folder in its place."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"{split}.parquet")
    (question,), config = load(f"questions={name}", f"questions.path={tmp_path / 'data'}")
    assert question.dataset == name
    if expected is not None:
        assert (question.question_id, question.text, question.gold) == expected
        assert config.prompt.answer_style == "boxed"
    else:
        assert question.question_id == "rec1"
        assert f"\n{question.gold}) two" in question.text
        assert question.text.startswith("Which is even?\n\nA) ")
        assert config.prompt.answer_style == "choice"


def test_a_data_set_that_cannot_be_had_says_what_to_look_at(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"'no/such' \(test\) cannot be loaded .* HF_TOKEN"):
        HubQuestions(path="no/such", split="test").load()


def test_generated_questions_are_the_seeds():
    pytest.importorskip("reasoning_gym")
    two = ["questions=reasoning_gym", "questions.tasks=[products,chain_sum]", "questions.size=3"]
    questions, _ = load(*two)
    assert [q.question_id for q in questions][2:4] == ["products-0-2", "chain_sum-0-0"]
    assert {q.dataset for q in questions} == {"reasoning_gym/products", "reasoning_gym/chain_sum"}
    assert all(q.gold for q in questions)
    assert load(*two)[0] == questions != load(*two, "questions.seed=1")[0]
    with pytest.raises(InputError, match="no task 'product'; did you mean products"):
        load("questions=reasoning_gym", "questions.tasks=[product]")
