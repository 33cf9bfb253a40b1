"""Weights & Biases: the only module that knows it. docs/wandb.md lists every key.

A key is the same for all runs of a command, so that W&B can compare them: what varies over a grid
is a column of a table. W&B sorts and filters by names of letters, digits and underscores, with at
most one slash, which makes a section of panels.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

from deepprune.core.files import write_json
from deepprune.core.statistics import Estimate
from deepprune.report.loggers import Tracker

MAX_ROWS = 10_000
"""Rows that W&B shows of a table."""

JUDGE_HEADLINE = "test_auroc_within_unfinished"
"""The only value with an interval, in ``_low`` and ``_high``; tables and files have the others."""

OBJECTIVE = "best_val_auroc_within_unfinished"
PLAIN = ("prune/headline_", f"judge/{JUDGE_HEADLINE}", f"judge/{OBJECTIVE}")
"""Keys that are logged a second time with ``_`` for the slash, for the metric of a sweep."""

SIGTERM = 143
"""Exit code of a run that was told to stop."""

_ARTIFACTS = {"model": "judge", "dataset": "traces", "results": "results"}
"""What names of artifacts begin with, by type."""

_HIDDEN = ("callbacks", "generators", "seed", "traces")
"""Sections of a configuration that are no options, or stand among the choices."""


class WandbTracker(Tracker):
    """The W&B run of a command.

    Args:
        run: The ``wandb.Run``.
        folder: The run folder, for ``artifacts.json``.
        is_preemptible: Whether SIGTERM means that the machine is taken away: the server then queues
            the run of a sweep again.
    """

    is_on = True

    def __init__(self, run: Any, folder: Path, *, is_preemptible: bool = False) -> None:
        self._run, self._folder, self._is_preemptible = run, folder, is_preemptible

    def loggers(self, beside: str = "") -> list[Any]:
        from pytorch_lightning.loggers import WandbLogger

        logger = WandbLogger(experiment=self._run, prefix=f"beside_{beside}" if beside else "")
        logger.LOGGER_JOIN_CHAR = "_"
        return [logger]

    def values(self, section: str, values: Mapping[str, Any]) -> None:
        """Set ``section/NAME`` in the summary, of an estimate its value."""
        shown = {n: v.value if isinstance(v, Estimate) else v for n, v in values.items()}
        if isinstance(found := values.get(JUDGE_HEADLINE), Estimate):
            shown |= {f"{JUDGE_HEADLINE}_low": found.low, f"{JUDGE_HEADLINE}_high": found.high}
        for name, value in shown.items():
            key = f"{section}/{name}"
            self._run.summary[key] = value
            if key.startswith(PLAIN) and value is not None:
                self._run.log({key.replace("/", "_"): value})

    def table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table with a column for each name; a column that holds no numbers is text."""
        if not rows:
            return
        import wandb

        if len(rows) > MAX_ROWS:
            print(f"W&B shows {MAX_ROWS} rows of a table: {key} is cut, the run folder has all")
        names: list[str | int] = [*dict.fromkeys(name for row in rows for name in row)]
        columns = [_one_type([row.get(str(name)) for row in rows[:MAX_ROWS]]) for name in names]
        data = [list(line) for line in zip(*columns, strict=True)]
        self._run.log({key: wandb.Table(columns=names, data=data)})

    def figure(self, key: str, path: Path | None) -> None:
        if path is not None and path.exists():
            import wandb

            self._run.log({key: wandb.Image(str(path))})

    def artifact(
        self, kind: str, paths: Iterable[Path], sha256: str, *, is_input: bool = False
    ) -> None:
        """Log files as an artifact that is named by their hash, and note it in ``artifacts.json``.

        W&B takes equal contents of one name for one version, so that its graph leads from the run
        that made a judge to those that read it. Offline it refuses inputs: only the note remains.

        Args:
            kind: ``model`` (a judge), ``dataset`` (a store of traces) or ``results``. Nothing of a
                data set is uploaded: the artifact refers to its folder.
            paths: Folders or files.
            sha256: Hash of the contents.
            is_input: Whether the run reads it.
        """
        import wandb

        name = f"{_ARTIFACTS[kind]}-{sha256[:12]}"
        made = wandb.Artifact(name, kind, metadata={"sha256": sha256})
        for path in (each.absolute() for each in paths):  # `wandb sync` runs anywhere
            if kind == "dataset":
                made.add_reference(path.as_uri(), checksum=False)
            elif path.is_dir():
                made.add_dir(str(path), policy="immutable")  # or it is copied to a folder of W&B
            else:
                made.add_file(str(path), policy="immutable")
        if not is_input:
            self._run.log_artifact(made)
        elif not self._run.offline:
            self._run.use_artifact(made)
        note = self._folder / "artifacts.json"
        known = json.loads(note.read_text()) if note.exists() else {}
        about = {"type": kind, "sha256": sha256, "role": "input" if is_input else "output"}
        write_json(note, known | {name: about})

    def finish(self, exit_code: int) -> None:
        """End the run: the next job of a multirun would log into it."""
        if self._is_preemptible and exit_code == SIGTERM:
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_code)


def start_run(
    folder: Path,
    config: Mapping[str, Any],
    *,
    project: str,
    mode: str = "offline",
    entity: str | None = None,
    group: str | None = None,
    overrides: Sequence[str] = (),
    command: str = "train",
    preemptible: bool = False,
) -> WandbTracker:
    """Start a W&B run with its files in ``folder/wandb``.

    An offline run needs no account; ``wandb sync`` uploads it later. A resumed run keeps its id, so
    that W&B joins its parts. A multirun is a group; the name and the tags say what was chosen. An
    agent of ``wandb sweep`` has chosen id, project and entity.
    """
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "wandb_id"
    if not marker.exists():
        marker.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
    is_agent = "WANDB_SWEEP_ID" in os.environ
    run_id = marker.read_text().strip()
    _remove_fragments(folder / "wandb", run_id)
    os.environ.setdefault("WANDB_SILENT", "true")
    run = wandb.init(
        dir=folder,
        config=dict(config),
        project=None if is_agent else project,
        entity=None if is_agent else entity,
        mode=mode,  # type: ignore[arg-type]
        group=group,
        tags=[tag[:64] for tag in overrides],
        job_type=command,
        name=",".join(o.lstrip("+") for o in overrides if not o.startswith("hydra."))[:128]
        or command,
        id=run_id,
        resume="allow",
        # A run that is killed in its first seconds would leave a file without a run.
        settings=wandb.Settings(console="off", silent=True, x_transaction_log_flush_interval=1.0),
    )
    run.pin_config_keys([name for name in config if name != "options"])
    return WandbTracker(run, folder, is_preemptible=preemptible)


def run_config(choices: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return W&B's configuration: choices as names on top, all values under ``options``.

    Constructors (``_target_``), callbacks and the sizes of known generators are left out.
    """
    shown = {name: value for name, value in options.items() if name not in _HIDDEN}
    return {**choices, "options": _without_targets(shown)}


def _without_targets(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = ((str(k), v) for k, v in value.items())
        return {k.replace(".", "_"): _without_targets(v) for k, v in items if not k.startswith("_")}
    return value


def _one_type(column: Iterable[Any]) -> list[Any]:
    """Return the values of a column: numbers, truth values, or text; ``None`` where missing."""
    values = list(column)
    kinds = {bool if isinstance(v, bool) else float if isinstance(v, int | float) else str
             for v in values if v is not None}  # fmt: skip
    if kinds <= {float} or kinds == {bool}:
        return values
    return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]


def _remove_fragments(folder: Path, run_id: str) -> None:
    """Remove what a start left that was killed before its run was recorded.

    ``wandb sync`` refuses every folder that is given together with such a one.
    """
    for part in folder.glob(f"offline-run-*-{run_id}"):
        log = part / f"run-{run_id}.wandb"
        if not log.exists() or run_id.encode() not in log.read_bytes():
            rmtree(part)
