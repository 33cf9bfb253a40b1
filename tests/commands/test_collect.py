"""`deepprune collect` as a user calls it: in a process of its own, killed, full, interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from builders import group
from hydra import compose, initialize_config_dir

from deepprune.cli import config_folder
from deepprune.commands.collect import LOCK
from deepprune.config import build_live
from deepprune.config.schemas import register
from deepprune.core.errors import InputError
from deepprune.generation.scripted import scripted
from deepprune.traces import TraceStore

COLLECT = [
    *(sys.executable, "-m", "deepprune.cli", "collect", "logger=none", "sampling.max_tokens=384"),
    *("questions.limit=6", "collect.n=4", "collect.concurrency=4"),
]
ENVIRONMENT = os.environ | {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "GIT_DIR": "none",  # no diff in provenance.json: it may be larger than the disk of a test
}
SERVER = Path(__file__).parents[1] / "generation" / "fake_server.py"


def call(arguments, folder, check=0):
    done = subprocess.run(
        arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done


@contextmanager
def started(arguments, folder, journalled):
    """A collection at work, with so many traces in its journal."""
    process = subprocess.Popen(
        arguments, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    journal = folder / "r" / "journal.jsonl"
    try:
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= journalled:
                break
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def traces(run):
    store = TraceStore.open(run / "traces")
    assert store.check() == []
    return store.load()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted collection, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = call([*COLLECT, "engine.seconds_per_token=0", "hydra.run.dir=r"], folder)
    return folder, done


def test_the_store_is_there_and_evaluate_goes_on_from_it(whole):
    folder, done = whole
    assert done.stdout.splitlines()[-2:] == ["results: r/traces", "run: r"]
    assert "24 of 24 traces recorded, 0 of 6 questions failed" in done.stdout
    assert (folder / "r" / "journal.jsonl").read_bytes() == b""
    manifest = TraceStore.open(folder / "r" / "traces").manifest
    assert manifest.provenance["questions"]["traces"] == "pool"
    small = ["sweep.resamples=1", "sweep.traces=4", "logger=none", "hydra.run.dir=e"]
    call([*COLLECT[:3], "evaluate", "traces=r/traces", *small], folder)
    rows = [json.loads(row) for row in (folder / "e" / "results.jsonl").read_text().splitlines()]
    assert {row["n_questions"] for row in rows} == {6}


def test_runs_that_were_stopped_go_on_to_the_same_traces(tmp_path, whole):
    """Two are interrupted, which is clean; the next is killed; the fourth does the rest."""
    command = [*COLLECT, "engine.seconds_per_token=0.005", "hydra.run.dir=r"]
    for number, journalled in [(signal.SIGINT, 4), (signal.SIGTERM, 8)]:
        with started(command, tmp_path, journalled) as process:
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 128 + number, out + err
        assert "the same command with hydra.run.dir=r resumes" in err
        assert "Traceback" not in err
        assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "interrupted"
    with started(command, tmp_path, 12) as process:
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    call([*command, "collect.concurrency=24"], tmp_path)  # who works is not what is done
    assert traces(tmp_path / "r") == traces(whole[0] / "r")
    again = call(command, tmp_path)
    assert "all 24 traces are recorded already; no engine is started" in again.stderr


@pytest.mark.skipif(os.name != "posix", reason="file locks")
def test_no_second_process_collects_into_the_folder(tmp_path):
    import fcntl

    (tmp_path / "r").mkdir()
    with (tmp_path / "r" / LOCK).open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        second = call([*COLLECT, "hydra.run.dir=r"], tmp_path, check=2)
    assert second.stderr.startswith("error: another process collects into ")
    assert second.stderr.count("\n") == 1
    assert not (tmp_path / "r" / "summary.json").exists()  # nor was the other's touched


def test_an_engines_own_oserror_is_not_called_a_full_disk(tmp_path):
    (tmp_path / "engines.py").write_text(
        "from deepprune.generation.scripted import scripted\n"
        "def unable(**options):\n"
        "    backend = scripted(**options)\n"
        "    async def open(format, sampling):\n"
        "        raise OSError(\"Can't load tokenizer for 'x'\")\n"
        "    backend.open = open\n"
        "    return backend\n"
    )
    bad = ["env", f"PYTHONPATH={tmp_path}", *COLLECT, "engine._target_=engines.unable"]
    done = call([*bad, "hydra.run.dir=r"], tmp_path, check=1)
    assert "Can't load tokenizer for 'x'" in done.stderr
    assert "cannot be written to" not in done.stderr
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "failed"


def test_other_ranks_of_a_launcher_are_refused(tmp_path):
    done = call(["env", "SLURM_PROCID=1", *COLLECT, "hydra.run.dir=r"], tmp_path, check=2)
    assert "error: collect is one process, but a launcher started several" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk_stops_the_run_in_one_line_and_it_goes_on(tmp_path, whole):
    command = [*COLLECT, "engine.seconds_per_token=0", "hydra.run.dir=r"]
    full = call(["bash", "-c", 'ulimit -f 16; exec "$@"', "-", *command], tmp_path, check=1)
    assert "error: r cannot be written to (File too large): make room there" in full.stderr
    assert "Traceback" not in full.stderr
    assert full.stdout.splitlines()[-1] == "run: r"
    again = call(command, tmp_path)
    assert "24 of 24 traces recorded" in again.stdout
    assert traces(tmp_path / "r") == traces(whole[0] / "r")


def test_failed_questions_are_named_and_the_exit_code_says_so(tmp_path):
    """The pool has 16 traces a question."""
    command = [*COLLECT, "questions.limit=2", "collect.n=17", "engine.seconds_per_token=0"]
    done = call([*command, "hydra.run.dir=r"], tmp_path, check=1)
    assert "32 of 34 traces recorded, 2 of 2 questions failed" in done.stdout
    assert "the script has 16 traces of" in done.stdout
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


def test_of_two_servers_one_is_killed_in_the_middle(tmp_path):
    """The run goes on with the other to the traces that one server alone gives."""
    pytest.importorskip("openai")
    command = [
        *(*COLLECT, "engine=openai", "engine.max_retries=1"),
        *("questions.limit=4", "collect.n=8", "hydra.run.dir=r"),
    ]  # fmt: skip
    (tmp_path / "alone").mkdir()
    with ExitStack() as stack:
        _, url = stack.enter_context(server())
        call([*command, f"engine.base_url={url}"], tmp_path / "alone")
        first, *urls = [stack.enter_context(server("--seconds-per-token", "0.005")) for _ in "ab"]
        urls = [first[1], urls[0][1]]
        both = [*command, f"collect.replicas=[{','.join(urls)}]"]
        with started(both, tmp_path, 6) as process:
            first[0].kill()
            out, err = process.communicate(timeout=100)
        assert process.returncode == 0, out + err
        assert f"{urls[0]} is lost" in err
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
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("collect", overrides=overrides.split())
    with pytest.raises(InputError, match=said):
        build_live.replicas(config)
