"""Loggers of a run beside its own files: none, CSV files, TensorBoard or MLflow.

W&B is in `tracking`. The files of a run folder are the record; a logger shows them elsewhere.
"""

from __future__ import annotations

import csv
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.core.files import as_json, write_atomic
from deepprune.core.statistics import Estimate

Rows = Sequence[Mapping[str, Any]]


class Tracker:
    """Receives what a command logs; this one logs nothing (``logger=none``)."""

    is_on = False
    """Whether tables are shown: what only they need is not computed otherwise."""

    def loggers(self, beside: str = "") -> list[Any]:
        """Return Lightning's loggers; keys of a model beside start with its name."""
        return []

    def values(self, section: str, values: Mapping[str, Any]) -> None:
        """Log ``section/NAME`` at the end of the run, of an estimate its value."""

    def table(self, key: str, rows: Rows) -> None:
        """Log a table with a column for each name."""

    def figure(self, key: str, path: Path | None) -> None:
        """Log a figure that was drawn."""

    def artifact(
        self, kind: str, paths: Iterable[Path], sha256: str, *, is_input: bool = False
    ) -> None:
        """Log files as an artifact, see `tracking.WandbTracker`."""

    def finish(self, exit_code: int) -> None:
        """End the run."""


class CsvTracker(Tracker):
    """Writes tables as ``SECTION_NAME.csv``, and at the end ``metrics.csv``.

    Lightning's ``CSVLogger`` does not serve, because it deletes the file of the interrupted run.
    """

    is_on = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def table(self, key: str, rows: Rows) -> None:
        _write_csv(self._folder / f"{key.replace('/', '_')}.csv", rows)

    def finish(self, exit_code: int) -> None:
        """Write the last values of each step of ``metrics.jsonl``."""
        for path in self._folder.rglob("metrics.jsonl"):
            steps: dict[Any, dict[str, Any]] = {}
            for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                steps.setdefault(line["step"], {}).update(line)
            _write_csv(path.with_suffix(".csv"), list(steps.values()))


class LightningTracker(Tracker):
    """Logs through a logger of Lightning."""

    is_on = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._logger = self._made("")
        self._logger.log_hyperparams(dict(config))

    @abstractmethod
    def _made(self, prefix: str) -> Any:
        """Make the logger; its keys start with the prefix."""

    def loggers(self, beside: str = "") -> list[Any]:
        if not beside:
            return [self._logger]
        logger = self._made(f"beside_{beside}")
        logger.LOGGER_JOIN_CHAR = "_"
        return [logger]

    def values(self, section: str, values: Mapping[str, Any]) -> None:
        shown = {n: v.value if isinstance(v, Estimate) else v for n, v in values.items()}
        numbers = {f"{section}/{n}": v for n, v in shown.items() if isinstance(v, int | float)}
        self._logger.log_metrics(numbers)

    def finish(self, exit_code: int) -> None:
        self._logger.finalize("failed" if exit_code else "success")


class TensorBoardTracker(LightningTracker):
    """Writes event files into ``tensorboard/`` of the run folder; tables are texts."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder = folder
        super().__init__(config)

    def _made(self, prefix: str) -> Any:
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(
            self._folder, "tensorboard", "", prefix=prefix, default_hp_metric=False
        )

    def table(self, key: str, rows: Rows) -> None:
        names = _names(rows)
        lines = [names, ["---"] * len(names)]
        lines += [[str(row.get(name, "")) for name in names] for row in rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self._logger.experiment.add_text(key, text)

    def figure(self, key: str, path: Path | None) -> None:
        if path is not None and path.exists():
            import numpy as np
            from PIL import Image

            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._logger.experiment.add_image(key, pixels, dataformats="HWC")


class MlflowTracker(LightningTracker):
    """Logs into ``mlflow.db`` of the run folder; a resumed run keeps its id."""

    def __init__(self, folder: Path, config: Mapping[str, Any], name: str) -> None:
        self._folder, self._name = folder.absolute(), name
        self._marker = folder / "mlflow_run_id"
        super().__init__(config)
        write_atomic(self._marker, str(self._logger.run_id))

    def _made(self, prefix: str) -> Any:
        from pytorch_lightning.loggers import MLFlowLogger

        known = self._marker.read_text() if self._marker.exists() else None
        return MLFlowLogger(
            "deepprune",
            self._name,
            tracking_uri=f"sqlite:///{self._folder / 'mlflow.db'}",  # its file store raises
            artifact_location=(self._folder / "mlflow").as_uri(),
            prefix=prefix,
            run_id=known,
        )

    def table(self, key: str, rows: Rows) -> None:
        columns = {name: [as_json(row.get(name)) for row in rows] for name in _names(rows)}
        self._logger.experiment.log_table(self._logger.run_id, columns, f"{key}.json")

    def figure(self, key: str, path: Path | None) -> None:
        if path is not None and path.exists():
            self._logger.experiment.log_artifact(self._logger.run_id, str(path), key)


def start_logger(name: str, folder: Path, config: Mapping[str, Any], title: str) -> Tracker:
    """Start the logger of ``logger=NAME``.

    Args:
        name: ``csv``, ``tensorboard``, ``mlflow`` or ``none``.
        folder: The run folder.
        config: Choices and options of the run.
        title: Name of the run.

    Raises:
        InputError: If its package is not installed.
    """
    try:
        if name == "tensorboard":
            return TensorBoardTracker(folder, config)
        if name == "mlflow":
            return MlflowTracker(folder, config, title)
    except ModuleNotFoundError as error:
        raise InputError(
            f"logger={name} needs an extra that is not installed ({error.name or error}): pip "
            f"install 'deepprune[{name}]', or take logger=wandb, csv or none."
        ) from error
    return CsvTracker(folder) if name == "csv" else Tracker()


def _names(rows: Rows) -> list[str]:
    return [*dict.fromkeys(name for row in rows for name in row)]


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _names(rows), restval="")
        writer.writeheader()
        writer.writerows(rows)
