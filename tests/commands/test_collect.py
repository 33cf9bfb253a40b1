"""`deepprune collect` as a user calls it: interrupted, killed, on a full disk."""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from builders import group
from commandline import call, killed_at, rows, run, started

from deepprune.cli import composed
from deepprune.commands.collect import LOCK
from deepprune.config import build_live
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file, without_paths
from deepprune.generation.scripted import scripted
from deepprune.traces import TraceStore

COLLECT = [
    *("collect", "logger=none", "sampling.max_tokens=384"),
    *("questions.limit=6", "collect.n=4", "collect.concurrency=4"),
]
AT_ONCE = "engine.seconds_per_token=0"
SERVER = Path(__file__).parents[1] / "generation" / "fake_server.py"


def journalled(folder, n):
    """Whether ``n`` traces are in the journal."""
    journal = folder / "r" / "journal.jsonl"
    return lambda: journal.exists() and journal.read_bytes().count(b"\n") >= n


def traces(folder):
    store = TraceStore.open(folder / "traces")
    assert store.check() == []
    return store.load()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted collection, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, call(*COLLECT, AT_ONCE, "hydra.run.dir=r", folder=folder)


def test_the_store_is_there_and_evaluate_reads_it(whole):
    folder, done = whole
    assert done.stdout.splitlines()[-2:] == ["results: r/traces", "run: r"]
    assert "24 of 24 traces recorded, 0 of 6 questions failed" in done.stdout
    assert (folder / "r" / "journal.jsonl").read_bytes() == b""
    manifest = TraceStore.open(folder / "r" / "traces").manifest
    assert manifest.provenance["questions"]["traces"] == "pool"
    small = ["sweep.resamples=1", "sweep.traces=4", "logger=none", "hydra.run.dir=e"]
    run("evaluate", "traces=r/traces", *small, folder=folder)
    assert {row["n_questions"] for row in rows(folder / "e" / "results.jsonl")} == {6}


def test_a_killed_run_resumes_to_the_same_traces(tmp_path, whole):
    """Killed at its fourth trace, at its eighth more, and while the store is written."""
    command = [*COLLECT, AT_ONCE, "hydra.run.dir=r"]
    for file, n in (("journal.jsonl", 4), ("journal.jsonl", 8), ("manifest.json", 1)):
        with killed_at(file, n):  # one at a time: traces that end together are one write
            run(*command, "collect.concurrency=1", folder=tmp_path)
    run(*command, "collect.concurrency=24", folder=tmp_path)  # how a run is carried out may change
    assert traces(tmp_path / "r") == traces(whole[0] / "r")
    again = run(*command, folder=tmp_path)
    assert "all 24 traces are recorded already; no engine is started" in again.stderr


def test_the_manifest_has_names_and_hashes_and_no_path(tmp_path):
    """A model or a file of questions that has changed since is found by its hash."""
    questions, played = tmp_path / "mine.jsonl", tmp_path / "played"
    row = {"question": "What is 1 + 1?", "question_id": "q", "gold": "2"}
    questions.write_text(json.dumps(row) + "\n")
    script = group(["2", "3"], 12, gold="2")
    asked = replace(script.question, dataset="mine", question_id="q", text=row["question"])
    store = TraceStore.create(played, token_counter="generator", answers="boxed")
    store.append([replace(trace, question=asked) for trace in script.traces])
    command = ["collect", "logger=none", "collect.n=2", AT_ONCE, f"engine.traces={played}"]
    command += ["questions=file", f"questions.path={questions}", "hydra.run.dir=r"]
    run(*command, folder=tmp_path)
    manifest = tmp_path / "r" / "traces" / "manifest.json"
    assert str(tmp_path) not in manifest.read_text()
    found = json.loads(manifest.read_text())["provenance"]
    assert found["questions"]["path"] == "mine.jsonl"
    assert found["questions"]["path_sha256"] == sha256_file(questions)
    assert found["engine"]["traces"] == "played"
    hash_ = found["engine"]["traces_sha256"]

    questions.write_text(json.dumps(row | {"gold": "3"}) + "\n")
    assert "inputs.questions" in call(*command, code=2, folder=tmp_path).stderr
    assert without_paths({"traces": str(played)}) == {"traces": "played", "traces_sha256": hash_}
    (played / "more").write_text("more")
    assert without_paths({"traces": str(played)})["traces_sha256"] != hash_


@pytest.mark.slow
def test_runs_that_get_signals_resume_to_the_same_traces(tmp_path, whole):
    """Two are interrupted, which is clean; the next is killed; the fourth does the rest."""
    command = [*COLLECT, "engine.seconds_per_token=0.005", "hydra.run.dir=r"]
    for number, n in [(signal.SIGINT, 4), (signal.SIGTERM, 8)]:
        with started(*command, folder=tmp_path, until=journalled(tmp_path, n)) as process:
            process.send_signal(number)
            out, err = process.communicate(timeout=200)
            assert process.returncode == 128 + number, out + err
        assert "the same command with hydra.run.dir=r resumes" in err
        assert "Traceback" not in err
        assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "interrupted"
    with started(*command, folder=tmp_path, until=journalled(tmp_path, 12)) as process:
        process.send_signal(signal.SIGKILL)
    call(*command, folder=tmp_path)
    assert traces(tmp_path / "r") == traces(whole[0] / "r")


@pytest.mark.skipif(os.name != "posix", reason="file locks")
def test_no_second_process_collects_into_the_folder(tmp_path):
    (tmp_path / "r").mkdir()
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "r" / LOCK],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    first.stdout.readline()
    second = run(*COLLECT, "hydra.run.dir=r", folder=tmp_path, code=2)
    first.communicate()
    assert second.stderr.startswith("error: another process collects into ")
    assert second.stderr.count("\n") == 1
    assert not (tmp_path / "r" / "summary.json").exists()  # nor was the other's touched


def test_an_engines_own_oserror_is_not_called_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "failing_engines.py").write_text(
        "from deepprune.generation.scripted import scripted\n"
        "def unable(**options):\n"
        "    backend = scripted(**options)\n"
        "    async def open(format, sampling):\n"
        "        raise OSError(\"Can't load tokenizer for 'x'\")\n"
        "    backend.open = open\n"
        "    return backend\n"
    )
    bad = [*COLLECT, "engine._target_=failing_engines.unable", "hydra.run.dir=r"]
    with pytest.raises(OSError, match="Can't load tokenizer for 'x'"):
        run(*bad, folder=tmp_path)
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "failed"


def test_other_ranks_of_a_launcher_are_refused(tmp_path):
    done = run(*COLLECT, "hydra.run.dir=r", folder=tmp_path, code=2, SLURM_PROCID="1")
    assert "error: collect must be one process, but a launcher started several" in done.stderr


@contextmanager
def small_files(n_bytes):
    """Refuse to write files beyond ``n_bytes``, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk_stops_the_run_in_one_line_and_it_resumes(tmp_path, whole):
    command = [*COLLECT, AT_ONCE, "hydra.run.dir=r"]
    with small_files(16_384):
        full = run(*command, folder=tmp_path, code=1, GIT_DIR="none")  # a diff may be larger
    assert "error: r cannot be written to (File too large): make room there" in full.stderr
    assert "Traceback" not in full.stderr
    assert full.stdout.splitlines()[-1] == "run: r"
    again = run(*command, folder=tmp_path)
    assert "24 of 24 traces recorded" in again.stdout
    assert traces(tmp_path / "r") == traces(whole[0] / "r")


def test_failed_questions_are_named_and_the_exit_code_says_so(tmp_path):
    """The pool has 32 traces a question."""
    command = [*COLLECT, "questions.limit=2", "collect.n=33", AT_ONCE]
    done = run(*command, "hydra.run.dir=r", folder=tmp_path, code=1)
    assert "64 of 66 traces recorded, 2 of 2 questions failed" in done.stdout
    assert "the script has 32 traces of" in done.stdout
    assert "failed: r/failed.jsonl; the same command retries them" in done.stdout
    assert (tmp_path / "r" / "failed.jsonl").read_text().count("\n") == 2
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "failed"


@contextmanager
def server(*arguments):
    process = subprocess.Popen(
        [sys.executable, str(SERVER), *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_of_two_servers_one_is_killed_in_the_middle(tmp_path):
    """The run continues with the other to the traces that one server alone gives."""
    pytest.importorskip("openai")
    command = [
        *(*COLLECT, "engine=openai", "engine.max_retries=1"),
        *("questions.limit=4", "collect.n=8", "hydra.run.dir=r"),
    ]  # fmt: skip
    (tmp_path / "alone").mkdir()
    with ExitStack() as stack:
        _, url = stack.enter_context(server())
        call(*command, f"engine.base_url={url}", folder=tmp_path / "alone")
        first, other = [
            stack.enter_context(server("--seconds-per-token", "0.005")) for _ in range(2)
        ]
        both = [*command, f"collect.replicas=[{first[1]},{other[1]}]"]
        with started(*both, folder=tmp_path, until=journalled(tmp_path, 6)) as process:
            first[0].kill()
            out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out + err
        assert f"{first[1]} is lost" in err
        assert "32 of 32 traces recorded" in out
    assert traces(tmp_path / "r") == traces(tmp_path / "alone" / "r")


def test_a_store_of_two_models_plays_the_one_that_is_named(tmp_path):
    one = group(["a"] * 2)
    other = replace(one, model="b", traces=tuple(replace(t, model="b") for t in one.traces))
    store = TraceStore.create(tmp_path / "s", token_counter="generator", answers="boxed")
    store.append([*one.traces, *other.traces])
    named = {"traces": str(store.path), "seconds_per_token": 0.0}
    with pytest.raises(ValueError, match=r"one model, got b, tiny: choose it with engine\.model="):
        scripted(model=None, **named)
    assert scripted(model="b", **named).model == "b"
    with pytest.raises(InputError, match="c"):
        scripted(model="c", **named)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("engine=replay", "engine=replay generates nothing"),
        ("collect.replicas=[http://a/v1]", "only engine=openai has replicas"),
        ("engine=openai collect.replicas=[]", "must be servers, each once"),
        ("engine=openai collect.replicas=[http://a/v1,http://a/v1]", "each once"),
    ],
)
def test_bad_options_are_refused_before_any_engine_starts(overrides, said):
    with pytest.raises(InputError, match=said):
        build_live.collect(composed("collect", overrides.split()))
