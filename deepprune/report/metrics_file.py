"""Lightning logger that appends one line per logged step to ``metrics.jsonl``."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from deepprune.core.files import as_json


class MetricsFile(Logger):
    """Appends metrics to ``folder/metrics.jsonl``; NaN becomes null.

    A resumed training logs the steps after its checkpoint again: the last line of a step counts.
    Lightning's ``CSVLogger`` does not serve, because it deletes the file of the interrupted run.
    This logger comes first in the list, since Lightning puts ``checkpoints/`` into the folder of
    the first logger.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.path = folder / "metrics.jsonl"

    @property
    def name(self) -> str:
        return ""  # together with version: no subfolder

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(as_json({"step": step, **metrics})) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Do nothing: ``config.json`` has them."""
