"""Hydra callback: when a multirun ends, one table of all its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from deepprune.files import write_atomic


class MultirunTable(Callback):
    """Prints the ``summary.json`` of all runs side by side; writes ``comparison.jsonl``."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs of the multirun are done."""
        folder = Path(config.hydra.sweep.dir)
        rows = []
        for path in sorted(folder.glob("*/summary.json"), key=lambda p: (len(p.parent.name), p)):
            rows.append({"run": path.parent.name, **json.loads(path.read_text())})
        if not rows:
            return
        from deepprune.report.tables import comparison_table, show

        table = folder / "comparison.jsonl"
        write_atomic(table, "".join(json.dumps(r) + "\n" for r in rows))
        show(comparison_table(rows))
        print(f"results: {table}")
        print(f"run: {folder}")
