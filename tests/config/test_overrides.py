"""Values and questions reach a command as they were typed, whatever is in them."""

import shlex

import pytest
import yaml
from commandline import run
from hydra.core.override_parser.overrides_parser import OverridesParser

from deepprune.cli import _is_option, _judge_overrides, composed
from deepprune.config.overrides import as_typed

TYPED = [
    "runs/lr=0.1/judge", "a=b", "a==b=c", "C++ traces", "c++", "+", "папка/судья", "模型", "🙂 x",
    "façade", "it's", 'say "hi"', "`a`", "$HOME", "$папка", r"C:\judges\new", r"C:\судьи\new",
    "судья\\", r"a=\"b\"", "runs (1)/judge", "(a", "[old] судья", "a#b", "a;b&c", "~/judge",
    "модель: v2", "two\nlines=1", "100%", "<judge>", "a|b*?", "答。",
]  # fmt: skip
COMMAS = ["with, comma", "a,b", "папка,b = d", "it's, that", "runs(1),2", r"C:\x,\"y\"=1"]


def value_of(option):
    """Read an override as Hydra does."""
    return OverridesParser.create().parse_override(option).value()


@pytest.mark.parametrize("value", TYPED)
def test_a_value_works_as_typed_quoted_or_in_a_list(value):
    option = as_typed(f"judge.path={value}")
    assert (value_of(option), as_typed(option)) == (value, option)
    if value in ("(a", "судья\\"):  # Hydra's: a comma after them belongs to the value
        return
    items = value_of(as_typed(f"data.models=[{value},Qwen/Qwen3-8B,['x=1']]"))
    assert [str(item) for item in items[:2]] == [value, "Qwen/Qwen3-8B"]
    swept = OverridesParser.create().parse_override(as_typed(f"judge.path={value},b"))
    assert [getattr(v, "text", v) for v in swept.sweep_iterator()] == [value, "b"]


@pytest.mark.parametrize("value", TYPED)
def test_a_configuration_has_the_value_as_typed(value):
    config = composed("evaluate", ["judge=trained", f"judge.path={value}", f"traces={value}"])
    assert (config.judge.path, config.traces) == (value, value)


@pytest.mark.parametrize("command", ["evaluate", "collect"])
@pytest.mark.parametrize("value", COMMAS)
def test_a_comma_without_a_multirun_is_answered_by_the_form_that_works(command, value, tmp_path):
    name = "judge.path" if command == "evaluate" else "questions.path"
    said = run(command, f"{name}={value}", folder=tmp_path, code=2).stderr
    assert said.count("\n") == 1
    (form,) = [w for w in shlex.split(said) if w.startswith(f'{name}="')]
    assert value_of(form.rstrip(",")) == value
    assert ("add -m" in said) == (command == "evaluate")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("null", None),
        ("0.5", 0.5),
        ("[a,b]", ["a", "b"]),
        ("{a:1}", {"a": 1}),
        ('"a=b"', "a=b"),
        ("{a:где,c:[d=e]}", {"a": "где", "c": ["d=e"]}),
    ],
)
def test_what_hydra_reads_keeps_its_meaning(value, read):
    assert value_of(as_typed(f"x={value}")) == read


def test_an_interpolation_works_beside_what_hydra_refuses():
    config = composed("evaluate", ["judge=trained", "seed=3", "judge.path=папка=${seed}"])
    assert config.judge.path == "папка=3"


@pytest.mark.parametrize(
    "question",
    [
        "Is x=3 a root?", "x=3, find 2x", "求x=2的值", "若x=3求2x", "Найдите_x=2", "是=?", "🙂=?",
        "-3+5", "-cos(x)=1", "--что", "—3=?", "2x=6", "x+y=3", "km/h=?", "~5=?",
        "seed = 3?", "$x$=\\frac{1}{2}", "C++ или C#?", "a, b = 1, 2", "${seed}=?", "'q'=\"q\"",
    ],
)  # fmt: skip
def test_free_text_is_a_question_and_no_override(question, tmp_path):
    said = run("prune", question, "seed=1", "--cfg", "job", "--resolve", folder=tmp_path).stdout
    assert yaml.safe_load(said)["question"] == question


@pytest.mark.parametrize(
    "word", ["sed=3", "judge.path=a b", "+x=1", "~logger", "hydra.job.name=a b"]
)
def test_a_misspelt_option_is_no_question(word):
    assert _is_option(word, "prune")


def test_judges_and_traces_of_a_report_are_paths_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with, comma").mkdir()
    words = _judge_overrides(["runs/lr=0.1", "папка", "C:\\a=b", "traces=with, comma"])
    assert value_of(words[-1]) == ["runs/lr=0.1", "папка", "C:\\a=b"]
    assert value_of(words[0]) == ["with, comma"]
    assert value_of(_judge_overrides(["traces=a=b,где"])[0]) == ["a=b", "где"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "папка=1"], "'папка=1' is no option: options are OPTION=VALUE"),
        (["prune", "f=ma?"], "there is no option 'f'; see --cfg job for all keys. A question that"),
        (["collect", "questions.path=choice(a,b)"], "questions.path has several values"),
    ],
)
def test_a_word_that_is_no_option_gets_one_line(arguments, said, tmp_path):
    assert run(*arguments, folder=tmp_path, code=2).stderr.startswith(f"error: {said}")
