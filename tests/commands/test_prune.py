"""`deepprune prune` as a user calls it: processes, signals, recordings, faults, bad input."""

import json
import os
import resource
import signal
import sys
import time
from importlib.util import find_spec

import pytest
from builders import group, with_forced_answers
from commandline import call, killed_at, rows, run, started

from deepprune.cli import _literal, _read_question, composed
from deepprune.commands.interrupts import Interrupts
from deepprune.commands.prune import _prune_all
from deepprune.config import build
from deepprune.core.types import Question
from deepprune.generation.backend import PromptFormat, Sampling
from deepprune.generation.live import LiveEngine
from deepprune.generation.scripted import ScriptedBackend
from deepprune.live.guard import JudgeWorker
from deepprune.live.pruner import LivePruner, Pruned
from deepprune.live.record import LiveRecord
from deepprune.pruning.policies.consensus import Consensus
from deepprune.traces import TraceStore

ONE = "basic_arithmetic-07"
"""A question of the bundled pool; 9 of its first 16 traces answer 53, which is wrong."""

FAULTY = {"PYTHONPATH": os.pathsep.join(sys.path)}
"""For a process that imports `faulty`."""

FAST = ["engine.seconds_per_token=0", "logger=none", "prefix.k=32"]


def decided(folder):
    """Whether anything was decided."""
    events = folder / "r" / "events.jsonl"
    return lambda: events.exists() and "decision" in events.read_text()


def test_a_question_is_answered_last_and_everything_is_on_record(tmp_path):
    """Its recording replays to the same decisions and the same vote."""
    done = call("prune", ONE, *FAST, "hydra.run.dir=r", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[-3:-1] == ["results: r/results.jsonl", "run: r"]
    (row,) = rows(tmp_path / "r" / "results.jsonl")
    assert lines[-1] == row["answer"] == "53"
    assert row["decisions"]
    assert (row["gold"], row["is_correct"]) == ("-43", False)
    (recorded,) = TraceStore.open(tmp_path / "r" / "traces").load()
    assert len(recorded.traces) == row["n_started"] == 16
    assert sum(t.n_tokens for t in recorded.traces) == row["tokens"]
    events = rows(tmp_path / "r" / "events.jsonl")
    assert (events[0]["event"], events[-1]["event"]) == ("start", "answer")
    replay = ["engine=replay", "engine.shuffle=false", "traces=r/traces", "view=json"]
    settings = ["prefix.k=32", "logger=none", "hydra.run.dir=again"]
    told = run("prune", *replay, *settings, folder=tmp_path).stdout.splitlines()
    again = json.loads(told[-1])
    same = ("answer", "weights", "voters", "decisions", "is_correct")
    assert {k: row[k] for k in same} == {k: again[k] for k in same}
    assert not (tmp_path / "again" / "traces").exists(), "a replay generates nothing"


def test_a_point_of_a_sweep_is_pruned_live(tmp_path):
    """The best one, or that of a line; what else is given wins. Other folders are refused."""
    sweep = [
        "evaluate", "sweep.traces=8", "sweep.questions=4", "sweep.resamples=1", "sweep.margin=0.9",
        "sweep.thresholds=[0.2,0.6]", "sweep.prefix_lens=[16]", "sweep.judges=[coin,length_only]",
        "logger=none", "hydra.run.dir=s",
    ]  # fmt: skip
    run(*sweep, folder=tmp_path)
    best = rows(tmp_path / "s" / "chosen.jsonl")[0]
    lines = rows(tmp_path / "s" / "results.jsonl")
    numbers = {(row["judge"], row.get("threshold")): n for n, row in enumerate(lines, 1)}
    live = ["prune", ONE, "engine.seconds_per_token=0", "logger=none", "view=none", "point=s"]
    run(*live, "hydra.run.dir=best", folder=tmp_path)
    for name, row in (("row", numbers["coin", 0.6]), ("length", numbers["length only", 0.2])):
        chosen = [f"point.row={row}", "prune.traces=6", f"hydra.run.dir={name}"]
        run(*live, *chosen, folder=tmp_path)
    for name, threshold, judge, n in (
        ("best", best["threshold"], "LexicalJudge", 8),
        ("row", 0.6, "CoinJudge", 6),
        ("length", 0.2, "LengthOnlyJudge", 6),
    ):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["pruning"]["deepprune"]["threshold"] == threshold
        assert config["pruning"]["deepprune"]["prefix"]["k"] == 16
        assert config["judge"]["_target_"].endswith(judge)
        assert config["prune"]["traces"] == n
    run(*live, "point.row=3", "hydra.run.dir=cons", folder=tmp_path)
    config = json.loads((tmp_path / "cons" / "config.json").read_text())
    assert (config["pruning"]["consensus"]["k"], config["prune"]["traces"]) == (3, 8)
    for words, message in (
        (["point.row=99"], f"point.row must be a line of s/results.jsonl, 1 to {len(lines)}"),
        (["point=best"], "got best without chosen.jsonl"),
    ):
        done = run(*live, *words, "hydra.run.dir=bad", folder=tmp_path, code=2)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_race_decides_by_the_mean_length_so_far_and_so_does_its_replay(tmp_path):
    """Question i is decided by (100 + tokens) / (1 + traces that ended), over those before it."""
    race = ["pruning=race", "pruning.race.budget=8", "logger=none", "view=json"]
    live = ["questions=traces", "questions.limit=3", "live.prior_length=100", *FAST]
    run("prune", *race, *live, "hydra.run.dir=r", folder=tmp_path)
    found = rows(tmp_path / "r" / "results.jsonl")
    tokens = ended = 0
    for row in found:
        assert row["mean_length"] == pytest.approx((100 + tokens) / (1 + ended))
        tokens, ended = tokens + row["tokens"], ended + row["n_finished"]
    assert all(row["decisions"] for row in found)
    replay = ["engine=replay", "engine.shuffle=false", "traces=r/traces", "hydra.run.dir=again"]
    run("prune", *race, *replay, folder=tmp_path)
    same = ("answer", "voters", "decisions", "mean_length")
    again = rows(tmp_path / "again" / "results.jsonl")
    assert [[row[k] for k in same] for row in again] == [[row[k] for k in same] for row in found]


def test_a_set_is_summed_up_tracked_and_gone_on_with(tmp_path):
    settings = ["questions=traces", "engine.seconds_per_token=0", "prefix.k=32", "view=none"]
    done = call("prune", *settings, "questions.limit=2", "hydra.run.dir=r", folder=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    folder = tmp_path / "r"
    assert [row["status"] for row in rows(folder / "results.jsonl")] == ["ok", "ok"]
    assert {"accuracy", "saving_estimated", "net_saving_estimated"} == set(
        json.loads((folder / "summary.json").read_text())["metrics"]
    )
    (offline,) = (folder / "wandb").glob("offline-run-*")
    media = offline / "files" / "media"
    (logged,) = (media / "table" / "prune").iterdir()
    table = json.loads(logged.read_text())
    assert len(table["data"]) == 2
    assert {"answer", "tokens", "saving_estimated"} <= set(table["columns"])
    assert [p.suffix for p in (media / "images" / "prune").iterdir()] == [".png"]
    before = (folder / "results.jsonl").read_bytes()
    run("prune", *settings, "questions.limit=2", "hydra.run.dir=r", folder=tmp_path)
    assert (folder / "results.jsonl").read_bytes() == before
    done = run("prune", *settings, "questions.limit=3", "hydra.run.dir=r", folder=tmp_path, code=2)
    assert "another configuration" in done.stderr


def test_a_failed_question_is_recorded_and_the_set_goes_on(tmp_path):
    """One of three questions has no traces to play."""
    store = TraceStore.create(tmp_path / "two", token_counter="generator", answers="boxed")
    groups = [group([r"\boxed{1}"] * 3, 8, name=name, gold="1") for name in ("a", "b")]
    store.append(t for each in groups for t in each.traces)
    lines = [{"question": f"What is {n}?", "question_id": n, "gold": "1"} for n in "axb"]
    (tmp_path / "toy.jsonl").write_text("\n".join(map(json.dumps, lines)))
    questions = ["questions=file", "questions.path=toy.jsonl", "prune.traces=3"]
    settings = [*questions, *FAST[:2], "prefix.k=2", "engine.traces=two", "hydra.run.dir=r"]
    done = run("prune", *settings, folder=tmp_path, code=1)
    assert "1 of 3 questions failed: all 3 traces failed: the script has 0 traces" in done.stderr
    assert "no net saving is claimed: the size of 'tiny' is not known" in done.stdout
    found = rows(tmp_path / "r" / "results.jsonl")
    assert [(row["question_id"], row["status"]) for row in found] == [
        ("a", "ok"), ("x", "failed"), ("b", "ok"),
    ]  # fmt: skip
    assert {ref.question.question_id for ref in store.open(tmp_path / "r" / "traces").refs()} == {
        *"ab"
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stores_what_was_generated_and_the_run_goes_on(number, tmp_path):
    slow = [ONE, "engine.seconds_per_token=0.02", "logger=none", "hydra.run.dir=r"]
    with started("prune", *slow, folder=tmp_path, until=decided(tmp_path)) as process:
        time.sleep(1)  # a decision is on record before the trace has stopped
        for _ in range(3):  # an impatient user
            process.send_signal(number)
        output, said = process.communicate(timeout=200)
    assert process.returncode == 128 + number, output + said
    assert said.strip() == (
        f"interrupted; 16 traces of {ONE} are in r/undecided; the same command with "
        "hydra.run.dir=r goes on"
    )
    (cut,) = TraceStore.open(tmp_path / "r" / "undecided").load()
    reasons = [t.finish_reason.value for t in cut.traces]
    assert reasons.count("pruned") > 0
    assert reasons.count("cut") > 0
    assert all(t.n_tokens >= 64 for t in cut.traces)
    (row,) = rows(tmp_path / "r" / "results.jsonl")
    assert (row["status"], row["n_started"]) == ("interrupted", 16)
    done = run("prune", *slow, folder=tmp_path)
    assert done.stdout.splitlines()[-1] == "53"
    (row,) = rows(tmp_path / "r" / "results.jsonl")
    assert row["status"] == "ok"


@pytest.mark.slow
def test_an_impatient_user_does_not_disturb_the_end_of_the_engine(tmp_path):
    """A second Ctrl-C and a SIGTERM come while the engine takes 2 s to close."""
    slow = ["engine._target_=faulty.slow", "engine.seconds_per_token=0.02", "logger=none"]
    arguments = ("prune", ONE, *slow, "hydra.run.dir=r")
    with started(*arguments, folder=tmp_path, until=decided(tmp_path), **FAULTY) as process:
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 200
        while not (tmp_path / "closing").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert said.strip().startswith(f"interrupted; 16 traces of {ONE} are in r/undecided")
    assert said.strip().count("\n") == 0
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(("file", "n_stored"), [("*.parquet", 1), ("results.jsonl", 2)])
def test_a_kill_while_a_question_is_stored_neither_loses_nor_doubles_it(file, n_stored, tmp_path):
    """Killed right before the second question is stored, and right before its row is on record."""
    settings = ["questions=traces", "questions.limit=3", *FAST, "view=none", "hydra.run.dir=r"]
    with killed_at(file, 2):
        run("prune", *settings, folder=tmp_path)
    folder = tmp_path / "r"
    assert len(rows(folder / "results.jsonl")) == 1
    assert len(TraceStore.open(folder / "traces").refs()) == n_stored
    run("prune", *settings, folder=tmp_path)
    found = rows(folder / "results.jsonl")
    assert [row["status"] for row in found] == ["ok"] * 3
    groups = TraceStore.open(folder / "traces").load()
    assert [[t.sample_id for t in each.traces] for each in groups] == [list(range(16))] * 3
    tokens = {each.question.question_id: sum(t.n_tokens for t in each.traces) for each in groups}
    assert tokens == {row["question_id"]: row["tokens"] for row in found}
    asked = [e["question_id"] for e in rows(folder / "events.jsonl") if e["event"] == "start"]
    assert len(asked) == 5 - n_stored, "what is stored is not asked again"
    assert not (folder / "pending.json").exists()


def test_an_interrupt_after_the_vote_waits_until_the_question_is_on_record(tmp_path):
    """It comes while the answers are classed; the question is decided and stored, then it ends."""
    played = group([r"\boxed{1}"] * 3, 8, gold="1")
    engine = LiveEngine(ScriptedBackend([played]), PromptFormat(), Sampling(max_tokens=100))

    def open_session(*question):
        session = engine.open(*question)
        whole = session.traces

        def interrupted():
            signal.raise_signal(signal.SIGINT)
            return whole()

        session.traces = interrupted
        return session

    policy = Consensus()
    pruner = LivePruner(open_session, "tiny", policy, None, JudgeWorker(120), 3, 0, None)
    record = LiveRecord(tmp_path, engine, [played.question])
    try:
        with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
            _prune_all(pruner, record, lambda _: 8.0, "none", sys.stdout, interrupts)
    finally:
        engine.close()
    (row,) = rows(tmp_path / "results.jsonl")
    assert (row["status"], row["answer"]) == ("ok", "1")
    (stored,) = TraceStore.open(tmp_path / "traces").load()
    assert len(stored.traces) == 3
    assert rows(tmp_path / "events.jsonl")[-1]["event"] == "answer"


def test_a_separator_in_an_answer_is_no_end_of_a_line(tmp_path):
    """U+2028 and U+0085 stand in JSON strings as they are."""
    question = Question("toy", "q", "a\u2028b\u0085c", None)
    row = {"dataset": "toy", "question_id": "q", "status": "ok", "question": question.text}
    live_record = LiveRecord(tmp_path, None, [question])
    live_record.write(Pruned(row, (), None))
    assert "\u2028" in (tmp_path / "results.jsonl").read_text("utf-8")
    again = LiveRecord(tmp_path, None, [question])
    assert again.rows == [row]
    assert again.is_decided(question)


def test_a_run_goes_on_with_another_timeout_or_server():
    def identity(*overrides):
        config = composed("prune", ["question=q", "engine=openai", *overrides])
        return build.run_plan(config, "prune").identity

    one = identity()
    operational = ["live.stall_s=9", "prune.judge_timeout_s=9", "engine.base_url=http://b/v1"]
    operational += ["engine.timeout_s=9", "engine.max_retries=9", "engine.max_concurrent=9"]
    assert identity(*operational, "view=none", "logger=none") == one
    assert identity("engine.model=m") != one
    assert identity("prune.traces=9") != one
    vllm = identity("engine=vllm")
    more = ["engine.gpu_memory_utilization=0.5", "engine.max_num_seqs=9"]
    assert identity("engine=vllm", *more) == vllm


@pytest.mark.slow
def test_a_judge_that_hangs_keeps_nobody(tmp_path):
    """The process exits, the result says that nothing was pruned."""
    judge = ["judge._target_=faulty.Hanging", "prune.judge_timeout_s=0.5", "hydra.run.dir=r"]
    done = call("prune", ONE, *FAST, *judge, "view=none", folder=tmp_path, **FAULTY)
    assert done.stdout == "53\n"
    assert "took longer than prune.judge_timeout_s=0.5 seconds" in done.stderr
    (row,) = rows(tmp_path / "r" / "results.jsonl")
    assert row["n_finished"] == 16
    assert "took longer" in row["fallback"]


def test_a_lost_engine_ends_the_run_in_one_line_with_all_stored(tmp_path):
    dying = ["engine._target_=faulty.dying", "questions=traces", "questions.limit=2"]
    done = run("prune", *dying, *FAST, "view=json", "hydra.run.dir=r", folder=tmp_path, code=1)
    assert "error: the engine is lost: its process was killed" in done.stderr
    assert "Traceback" not in done.stderr
    (row,) = rows(tmp_path / "r" / "results.jsonl")
    assert (row["status"], row["reason"]) == ("failed", "its process was killed")
    (cut,) = TraceStore.open(tmp_path / "r" / "undecided").load()
    assert len(cut.traces) == 16


def test_a_full_disk_is_one_line_and_leaves_what_was_stored(tmp_path, monkeypatch):
    """Once a question is on record files may not grow beyond 2 KB, as if the disk were full."""
    settings = ["questions=traces", *FAST, "view=none", "hydra.run.dir=r"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = LiveRecord.write

    def write_and_fill_the_disk(record, done):
        write(record, done)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    monkeypatch.setattr(LiveRecord, "write", write_and_fill_the_disk)
    try:
        said = run("prune", *settings, folder=tmp_path, code=2).stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.count("\n") == 1, said
    assert said.startswith("error: the disk is full")
    stored = TraceStore.open(tmp_path / "r" / "traces")
    assert stored.check() == []
    found = rows(tmp_path / "r" / "results.jsonl")
    assert 0 < len(found) <= len(stored.refs()) < 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["engine=scripted"], "prune needs a question"),
        ([" "], "the question is empty"),
        (["@missing.txt"], "cannot be read from '@missing.txt': No such file"),
        (["What", "is 1?"], "prune takes one question, got 2 arguments"),
        (["Is x = 4?"], "pool has no traces of this question; it has 80 questions"),
        ([ONE, "pruning=[esc,mars]"], "exactly one policy, got esc, mars"),
        ([ONE, "pruning=deeprune"], "did you mean deepprune?"),
        ([ONE, "engine=script"], "did you mean scripted?"),
        ([ONE, "threshold=50"], "threshold must lie in [0, 1] or null, got 50"),
        ([ONE, "pruning=esc", "threshold=0.5"], "esc has no threshold"),
        ([ONE, "prune.traces=1"], "prune.traces must be >= 2, got 1"),
        ([ONE, "view=jsn"], "view must be one of live, json, none, got 'jsn'"),
        ([ONE, "judge=trained", "judge.path=."], "judge.json"),
        ([ONE, "judge=oracle"], "an oracle knows the final answers"),
        ([ONE, "pruning=deepconf"], "deepconf needs token confidences, and sampling.logprobs=0"),
        (["1+1?", "pruning=mars", "engine=replay", "questions=traces"], "not both"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(arguments, said, tmp_path):
    lines = run("prune", *arguments, "logger=none", folder=tmp_path, code=2).stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert not list(tmp_path.glob("runs/*/config.json")), "no run was claimed"


def test_a_policy_that_forces_answers_needs_recorded_ones_or_an_engine_that_continues(tmp_path):
    bare = group(["a", "b"], 8)
    forced = with_forced_answers(bare, [[0], [0]], every=4)
    for name, played in (("bare", bare), ("forced", forced)):
        store = TraceStore.create(tmp_path / name, token_counter="generator", answers="boxed")
        store.append(played.traces)
    settings = ["q", "pruning=early_exit", "logger=none"]
    done = run("prune", *settings, "engine.traces=bare", folder=tmp_path, code=2)
    assert "needs recorded forced answers, which these traces do not have" in done.stderr
    unable = ["engine._target_=faulty.unable", "engine.traces=forced"]
    done = run("prune", *settings, *unable, folder=tmp_path, code=2)
    assert "early_exit forces answers out of prefixes" in done.stderr


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_vllm_that_is_missing_is_said(tmp_path):
    settings = ["engine=vllm", "engine.model=m", "logger=none"]
    done = run("prune", "1+1?", *settings, folder=tmp_path, code=2)
    assert "pip install 'deepprune[vllm]'" in done.stderr


def test_a_question_comes_from_an_argument_a_file_or_standard_input(tmp_path):
    text = "Calculate 3 - -( 8 * -6 ) - -2."
    (tmp_path / "q.txt").write_text(f"{text}\n")
    assert _read_question(str(tmp_path / "q.txt")) == f"{text}\n"
    assert _read_question(f"@{tmp_path / 'q.txt'}") == f"{text}\n"
    assert _read_question(text) == text
    done = run("prune", "-", *FAST, "view=none", folder=tmp_path, stdin=text)
    assert done.stdout == "53\n"


@pytest.mark.parametrize("text", [r"\frac{1}{2} ${x} $y$", r"\\${a} \${b}", "a=b,c: [1] 'q' \"r\""])
def test_a_question_stays_as_it_was_written(text):
    config = composed("prune", [])
    config["question"] = _literal(text)
    assert config.question == text
