"""`deepprune judge-report` as a user calls it, and what it refuses before anything loads."""

import json
import shutil

import pytest
import torch
from omegaconf import MissingMandatoryValue
from tiny_models import save_tiny_qwen3_lm

from deepprune import cli
from deepprune.cli import _judge_overrides, config_folder, main
from deepprune.config import build
from deepprune.config.advice import advise
from deepprune.config.help import help_text
from deepprune.config.schemas import check_ranges
from deepprune.core.errors import InputError
from deepprune.data.pairs import build_part
from deepprune.data.prefixes import FirstTokens
from deepprune.data.splits import question_hash
from deepprune.judge.linear import LinearArchitecture
from deepprune.judge.network.zero_shot import zero_shot_judge
from deepprune.traces import open_traces

DATASET = "reasoning_gym/chain_sum"
SMALL = [
    "baselines=[question_only,lexical]", "data.eval_pairs_per_question=10", "logger=none",
    f"data.datasets=[{DATASET}]",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with a judge each, trained on prefixes of 32 and of 64 tokens."""
    folder = tmp_path_factory.mktemp("runs")
    groups = open_traces("pool").load(datasets=[DATASET])[:8]
    seen = frozenset(question_hash(g.question.text) for g in groups)
    for name, rule in (("short", FirstTokens(32)), ("long", FirstTokens(64))):
        pairs = build_part("train", groups, rule, max_pairs=20)
        architecture = LinearArchitecture()
        model = architecture.build(architecture.encoding(pairs))
        torch.nn.init.normal_(model.layers[0].weight, std=0.1)
        judge = architecture.judge(model, seen)
        judge.export(folder / name / "judge", prefix_rule=rule)
    judge.export(folder / "unknown_rule")
    return folder


def composed(*arguments):
    return cli.composed("judge_report", _judge_overrides(arguments))


def test_first_words_are_printed_and_a_judge_of_unknown_training_is_marked(
    tmp_path, monkeypatch, capsys
):
    source = save_tiny_qwen3_lm(tmp_path / "lm")
    zero_shot_judge(source, dtype="float32", device="cpu").export(tmp_path / "judge")
    monkeypatch.chdir(tmp_path)
    options = ["prefix=first_tokens", "prefix.k=16", "words=true", "hydra.run.dir=w"]
    with pytest.raises(SystemExit, match="0"):
        main(["judge-report", "judge", "traces=pool", *SMALL, *options])
    said = capsys.readouterr().out
    assert "zero-shot lm (training unknown), the most likely first words" in said
    assert said.count("  same     ") == said.count("  different  ") == 5
    (row, *_) = (json.loads(line) for line in (tmp_path / "w/matrix.jsonl").open())
    assert row["judge"] == "zero-shot lm (training unknown)"


def test_a_report_names_what_it_leaves_out_and_goes_on_where_it_was_killed(
    runs, monkeypatch, capsys
):
    """Each judge on the prefixes of its training; half of the rows are taken away in between."""
    command = ["short", "long/judge", "traces=pool", *SMALL, "hydra.run.dir=report"]
    monkeypatch.chdir(runs)
    with pytest.raises(SystemExit, match="0"):
        main(["judge-report", *command])
    said = capsys.readouterr().out
    assert said.splitlines()[-4:] == [
        "figure: report/judge_matrix.png", "report: report/report.html",
        "results: report/matrix.jsonl", "run: report",
    ]  # fmt: skip
    assert "8 of 12 questions were seen in training, excluded" in said
    matrix = runs / "report" / "matrix.jsonl"
    whole = matrix.read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [(r["judge"], r["prefix_len"]) for r in rows] == [
        *[("linear short", 32), ("question_only", 32), ("lexical", 32)],
        *[("linear long", 64), ("question_only", 64), ("lexical", 64)],
    ]
    n_questions = len(open_traces("pool").refs(datasets=[DATASET]))
    assert {(r["n_questions"], r["n_questions_seen"]) for r in rows} == {(n_questions - 8, 8)}
    assert rows[0]["minus"].keys() == {"question_only", "lexical"}
    judges = json.loads((runs / "report" / "judges.json").read_text())
    assert judges["linear short"]["path"] == "short/judge"

    matrix.write_text("".join(line + "\n" for line in whole.splitlines()[:3]))
    with pytest.raises(SystemExit, match="0"):
        main(["judge-report", *command])
    assert matrix.read_text() == whole

    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["report", "report", "--markdown"])
    said = capsys.readouterr().out
    assert said.startswith(f"pool {DATASET} ")
    assert "| linear short |" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["traces=pool", "judges=[]"], "needs one judge or more"),
        (["nowhere", "traces=pool"], "nowhere does not"),
        (["short", "short/judge", "traces=pool"], "each once"),
    ],
)
def test_what_is_no_judge_is_refused(arguments, said, runs, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises(InputError, match=said):
        build.judge_report(composed(*arguments))


def test_the_prefixes_are_those_of_the_training_unless_given(runs):
    short = str(runs / "short")
    plan = build.judge_report(composed(short, "traces=pool"))
    assert plan.rules == {"linear": FirstTokens(32)}
    given = composed(short, "traces=pool", "prefix=first_tokens", "prefix.k=300")
    assert build.judge_report(given).rules == {"linear": FirstTokens(300)}
    with pytest.raises(InputError, match="give them, as prefix=first_tokens"):
        build.judge_report(composed(str(runs / "unknown_rule"), "traces=pool"))


def test_paths_are_taken_as_they_are():
    config = composed("my runs/a", "runs/c,d", "traces=p q.parquet,pool", "seed=1")
    assert list(config.traces) == ["p q.parquet", "pool"]
    assert list(config.judges) == ["my runs/a", "runs/c,d"]
    assert config.seed == 1
    with pytest.raises(InputError, match="sentence_embedding, got 'oracle'"):
        check_ranges(composed("j", "traces=a", "baselines=[oracle]"))


def test_a_folder_may_have_an_equals_sign(tmp_path):
    folder = tmp_path / "lr=1e-3"
    folder.mkdir()
    *others, judges = _judge_overrides(["job", str(folder), "~logger", "a=b"])
    assert others == ["~logger", "a=b"]
    assert json.loads(judges.removeprefix("judges=")) == ["job", str(folder)]


def test_what_must_be_given_is_said_and_a_multirun_refused(capsys):
    with pytest.raises(MissingMandatoryValue) as missing:
        build.judge_report(composed("traces=pool"))
    said = advise(missing.value, "judge_report", config_folder())
    assert said == "judges must be given: deepprune judge-report runs/DIR traces=pool"
    with pytest.raises(SystemExit, match="2"):
        main(["judge-report", "runs/a", "traces=pool", "-m", "seed=0,1"])
    assert "leave -m out" in capsys.readouterr().err


def test_a_selection_of_nothing_names_what_there_is(runs):
    config = composed(str(runs / "short"), "traces=pool", "data.datasets=[typo]")
    with pytest.raises(InputError, match=r"\['typo'\]; it has models .*reasoning_gym/chain_sum"):
        build.judge_report(config)


def test_a_baseline_that_is_not_there_is_told_before_anything_is_scored(runs, monkeypatch):
    from deepprune.judge.features import embeddings

    monkeypatch.setattr(embeddings, "resolve_source", lambda name: "/nowhere/minilm")
    with pytest.raises(InputError, match="leave sentence_embedding out"):
        build.judge_report(
            composed(str(runs / "short"), "traces=pool", "baselines=[sentence_embedding]")
        )


def test_help_lists_groups_and_options():
    text = help_text("judge_report", "deepprune judge-report", config_folder())
    assert "JUDGE ... traces=A,B" in text
    assert " -m " not in text
    assert "first_tokens" in text
    assert "leave_out_seen: true" in text


def test_judges_of_two_multiruns_are_told_apart(runs, tmp_path):
    for name in ("a/0", "b/0"):
        shutil.copytree(runs / "short" / "judge", tmp_path / name / "judge")
    given = composed(str(tmp_path / "a/0"), str(tmp_path / "b/0"), "traces=pool")
    found = build.judge_report(given).exports
    assert len(found) == 2
    assert all(str(folder) in name for name, folder in found.items())
