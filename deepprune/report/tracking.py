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

from deepprune.core.statistics import Estimate

MAX_ROWS = 10_000
"""Rows that W&B shows of a table."""

JUDGE_HEADLINE = "test_auroc_within_unfinished"
"""The only value with an interval, in ``_low`` and ``_high``; tables and files have the others."""

OBJECTIVE = "best_val_auroc_within_unfinished"
PLAIN = ("prune/headline_", f"judge/{JUDGE_HEADLINE}", f"judge/{OBJECTIVE}")
"""Keys that are logged a second time with ``_`` for the slash, for the metric of a sweep."""

_HIDDEN = ("callbacks", "generators", "seed", "traces")
"""Sections of a configuration that are no options, or stand among the choices."""


class Tracker:
    """The W&B run of a command; without one (``logger=none``) every method does nothing.

    Args:
        run: The ``wandb.Run``.
    """

    def __init__(self, run: Any = None) -> None:
        self._run = run

    def loggers(self, beside: str = "") -> list[Any]:
        """Return Lightning's logger into the run; keys of a model beside start with its name."""
        if self._run is None:
            return []
        from pytorch_lightning.loggers import WandbLogger

        logger = WandbLogger(experiment=self._run, prefix=f"beside_{beside}" if beside else "")
        logger.LOGGER_JOIN_CHAR = "_"
        return [logger]

    def values(self, section: str, values: Mapping[str, Any]) -> None:
        """Set ``section/NAME`` in the summary, of an estimate its value."""
        if self._run is None:
            return
        shown = {n: v.value if isinstance(v, Estimate) else v for n, v in values.items()}
        if isinstance(found := values.get(JUDGE_HEADLINE), Estimate):
            shown |= {f"{JUDGE_HEADLINE}_low": found.low, f"{JUDGE_HEADLINE}_high": found.high}
        for name, value in shown.items():
            key = f"{section}/{name}"
            self._run.summary[key] = value
            if key.startswith(PLAIN):
                self._run.log({key.replace("/", "_"): value})

    def table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table with a column for each name; a column that holds no numbers is text."""
        if self._run is None or not rows:
            return
        import wandb

        if len(rows) > MAX_ROWS:
            print(f"W&B shows {MAX_ROWS} rows of a table: {key} is cut, the run folder has all")
        names: list[str | int] = [*dict.fromkeys(name for row in rows for name in row)]
        columns = [_one_type([row.get(str(name)) for row in rows[:MAX_ROWS]]) for name in names]
        data = [list(line) for line in zip(*columns, strict=True)]
        self._run.log({key: wandb.Table(columns=names, data=data)})

    def figure(self, key: str, path: Path | None) -> None:
        """Log a figure that was drawn."""
        if self._run is not None and path is not None and path.exists():
            import wandb

            self._run.log({key: wandb.Image(str(path))})

    def finish(self, exit_code: int) -> None:
        """End the run: the next job of a multirun would log into it."""
        if self._run is not None:
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
) -> Tracker:
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
    return Tracker(run)


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
