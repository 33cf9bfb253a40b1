"""Lightning logger: ``metrics.jsonl``, one line a logged step, on disk as it is logged."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only


class MetricsFile(Logger):
    """Appends metrics to ``folder/metrics.jsonl``; undefined ones are null.

    A resumed training logs again what follows its checkpoint: the last line of a step counts.
    Lightning puts ``checkpoints/`` into the first logger's folder, so this one comes first.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.path = folder / "metrics.jsonl"

    @property
    def name(self) -> str:
        """No folder of its own."""
        return ""

    @property
    def version(self) -> str:
        """No folder of its own."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line."""
        values = {k: None if math.isnan(v) else v for k, v in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Nothing: ``config.json`` has them."""
