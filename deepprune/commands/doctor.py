"""``deepprune doctor``: what this machine can run, what is missing, how fast its engine is."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from packaging.requirements import Requirement

from deepprune import __version__
from deepprune.core.errors import InputError
from deepprune.core.provenance import installed

if TYPE_CHECKING:
    from deepprune.commands.step_timing import TimedEngine

TIMEOUT_S = 2.0
COMMANDS = {
    "train, evaluate, judge-report, traces": "",
    "collect, prune engine=scripted": "",
    "train model=minilm": "demo",
    "figures": "report",
    "collect, prune engine=vllm; judge.backend=vllm": "vllm",
    "collect, prune engine=openai": "openai",
    "collect questions=hub, reasoning_gym": "questions",
    "distributed=ray": "ray",
    "train -m hydra/launcher=joblib; hydra/sweeper=optuna": "sweeps",
}
"""Commands and the extra that each needs beyond the package itself."""


def main(argv: Sequence[str], engine: Callable[[Sequence[str]], TimedEngine]) -> int:
    """Run ``deepprune doctor`` and return the exit code: 1 if a plain ``train`` cannot run.

    Args:
        argv: The arguments.
        engine: Makes the engine that is timed from options of ``deepprune prune``.

    Raises:
        InputError: If there are options without ``--engine``, the engine cannot be timed, or
            ``--gpu`` finds no GPU.
    """
    given = _parser().parse_intermixed_args(argv)
    if given.engine is not None:
        from deepprune.commands.step_timing import time_steps

        time_steps(Path(given.engine), *engine(given.options))
        return 0
    if given.options:
        raise InputError(f"doctor takes options only with --engine FILE, got {given.options[0]}.")
    if given.gpu:
        from deepprune.commands.gpu_check import check_gpu

        return check_gpu(_machine(), engine if installed("vllm") else None)
    for name, said in [*_machine(), *(_reached() if given.online else ())]:
        print(f"{name:13}{said}")
    print()
    for command, extra in COMMANDS.items():
        gaps = "; ".join(missing(extra))
        install = f"pip install --upgrade 'deepprune[{extra}]'".replace("[]", "")
        print(f"{command:55}" + (f"no, {gaps}: {install}" if gaps else "yes"))
    return int(bool(missing("")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepprune doctor", description=__doc__)
    parser.add_argument("--online", action="store_true", help="also try to reach the hub and W&B")
    parser.add_argument(
        "--engine", metavar="FILE", help="time an engine's steps, write FILE for engine.steps=FILE"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="train, score and generate on the GPU, two minutes"
    )
    parser.add_argument("options", nargs="*", help="of prune, for --engine: engine.model=FOLDER")
    return parser


def missing(extra: str) -> list[str]:
    """Return what is missing of the packages that an extra and the package itself need.

    Versions are read from metadata; nothing is imported.
    """
    try:
        listed = [Requirement(line) for line in requires("deepprune") or ()]
    except PackageNotFoundError:
        return ["deepprune is not installed"]
    gaps = []
    for need in listed:
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            found = installed(need.name)
            if found is None:
                gaps.append(f"{need.name} is missing")
            elif not need.specifier.contains(found, prereleases=True):
                gaps.append(f"{need.name} is {found}, not {need.specifier}")
    return gaps


def _machine() -> Iterator[tuple[str, str]]:
    yield "deepprune", f"{__version__}, {Path(__file__).parents[1]}"
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    packages = ("torch", "transformers", "pytorch-lightning", "hydra-core", "wandb", "vllm")
    yield "packages", ", ".join(f"{name} {installed(name) or 'missing'}" for name in packages)
    yield "accelerators", f"{_gpus()}; {os.cpu_count()} CPU cores"
    yield "disk", f"{shutil.disk_usage('.').free / 1e9:,.0f} GB free here"
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    yield "caches", f"{hub}: {len(list(hub.glob('hub/models--*')))} models"


def _gpus() -> str:
    """Return the GPUs that NVIDIA's driver lists, without importing torch."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return "no NVIDIA driver" if isinstance(error, FileNotFoundError) else f"{error}"
    is_cpu_build = (installed("torch") or "").endswith("+cpu")
    return "; ".join(done.stdout.splitlines()) + " (unused: torch is a CPU build)" * is_cpu_build


def _reached() -> Iterator[tuple[str, str]]:
    hub, wandb = "https://huggingface.co", "https://api.wandb.ai"
    for url, way in ((hub, "HF_HUB_OFFLINE=1 and local models"), (wandb, "logger.mode=offline")):
        try:
            with suppress(HTTPError):  # an answer
                urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
            yield "online", f"{url} answers"
        except OSError as error:
            yield "online", f"{url} cannot be reached ({error}): take {way}"
