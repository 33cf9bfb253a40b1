"""Provenance of a run folder, and the check that a run may resume in it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.files import write_atomic

FAILURE = "failure.json"  # why a run of a multirun failed
PACKAGES = (
    "deepprune",
    "torch",
    "transformers",
    "pytorch-lightning",
    "peft",
    "numpy",
    "hydra-core",
)


CONFIG, PROVENANCE = "config.json", "provenance.json"
EVENTS = "events.jsonl"  # of `deepprune prune` alone


def open_run(
    folder: Path,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Start a run in ``folder``, or resume the run of the same configuration.

    Writes ``config.json`` (resolved) and ``provenance.json`` (overrides, command, commit and
    uncommitted diff, package versions, machine, and ``facts``).

    Raises:
        InputError: If it holds a run of another configuration; names the differences.
    """
    path = folder / CONFIG
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    if path.exists():
        earlier = flat(json.loads(path.read_text()))
        now = flat(json.loads(text))
        changed = sorted(k for k in earlier.keys() | now.keys() if earlier.get(k) != now.get(k))
        if changed:
            shown = ", ".join(f"{k}: {earlier.get(k)!r} -> {now.get(k)!r}" for k in changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise InputError(
                f"{folder} holds a run of another configuration ({shown}{more}): resume with the "
                "same one, or give another hydra.run.dir."
            )
        return
    about = {**_provenance(overrides), **(facts or {})}
    write_atomic(folder / PROVENANCE, json.dumps(about, indent=2))
    write_atomic(path, text)  # last: its presence means that the run has started


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested options by dotted name."""

    def items(node: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from items(value, f"{name}.{key}" if name else str(key))
        else:
            yield name, node

    return dict(items(dict(config), ""))


def _provenance(overrides: Sequence[str]) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "overrides": list(overrides),
        "commit": _git("rev-parse", "HEAD"),
        "diff": _git("diff", "HEAD"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {p: installed(p) for p in PACKAGES},
    }


def _git(*arguments: str) -> str | None:
    """Return the output of git on the source tree, or ``None`` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def installed(package: str) -> str | None:
    """Return the version of a package, ``None`` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
