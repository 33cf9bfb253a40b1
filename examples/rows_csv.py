"""A watcher: it is told of checkpoints, decisions, questions, and of the end of a sweep."""

import csv

from deepprune.evaluation.watcher import Watcher

NAMES = ("policy", "accuracy", "tokens")


class RowsCsv(Watcher):
    """Writes accuracy and tokens of every grid point to ``rows.csv``."""

    def on_sweep_end(self, plan, rows):
        with (plan.folder / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(NAMES)
            for row in rows:  # a point that failed has no accuracy
                writer.writerow([row.columns.get(name) for name in NAMES])
