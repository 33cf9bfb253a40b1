"""Runs commands as a user types them: in this process, or in one of their own.

In process is the rule, since a process of its own takes 4 s to import torch; one real process for
each command proves its entry point, and one that is killed proves that it resumes.
"""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from deepprune.cli import main

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
DEADLINE_S = 240
"""Before a real process counts as hanging, on a machine that is busy with something else."""


class Output(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def run(*arguments, folder, code=0, stdin="", **environment):
    """Run ``deepprune ARGUMENTS`` in this process, with ``folder`` as its working directory."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    found = 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["deepprune", *arguments]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        mock.patch.dict(os.environ, ENVIRONMENT | environment),
    ):
        try:
            main(list(arguments))
        except SystemExit as exit_:
            found = exit_.code or 0
        finally:
            root.handlers[:] = handlers  # Hydra configures logging anew
            root.setLevel(level)
    assert found == code, out.getvalue() + err.getvalue()
    return Output(out.getvalue(), err.getvalue())


def start(*arguments, folder, program=(), **environment):
    """Start ``deepprune ARGUMENTS``, or another program, as a process of its own."""
    return subprocess.Popen(
        [*(program or (sys.executable, "-m", "deepprune.cli")), *arguments],
        cwd=folder, env=os.environ | ENVIRONMENT | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def call(*arguments, folder, code=0, **settings):
    """Run ``deepprune ARGUMENTS`` in a process of its own."""
    process = start(*arguments, folder=folder, **settings)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, out + err
    return Output(out, err)


@contextmanager
def started(*arguments, folder, until, **settings):
    """A process for which ``until()`` has become true; it is killed at the end."""
    process = start(*arguments, folder=folder, **settings)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not until():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


class Killed(BaseException):
    """Stands for SIGKILL: no `except Exception` sees it."""


@contextmanager
def killed_at(name, n=1):
    """Stop a command at the ``n``-th time that a file of this name is flushed or put into place.

    Nothing can be written from then on: what is on disk is what SIGKILL at that moment would leave.

    Args:
        name: Pattern of the file's name, e.g. ``*.npz``.
        n: From 1.
    """
    seen, is_dead = 0, False

    def guarded(function, name_of):
        def call(*arguments, **options):
            nonlocal seen, is_dead
            seen += fnmatch(Path(name_of(*arguments)).name, name)
            is_dead = is_dead or seen >= n
            if is_dead:
                raise Killed
            return function(*arguments, **options)

        return call

    with (
        mock.patch.object(os, "replace", guarded(os.replace, lambda _, target: target)),
        mock.patch.object(os, "fsync", guarded(os.fsync, lambda f: os.readlink(f"/dev/fd/{f}"))),
    ):
        try:
            yield
        except Killed:
            return
    raise AssertionError(f"{name} was written {seen} times, {n} were expected")


def rows(path):
    """The rows of a JSONL file; ``\\u2028`` and the like end no line."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]
