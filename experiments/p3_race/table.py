"""Print every point of race and some of its rivals as a Markdown table.

python experiments/p3_race/table.py experiments/p3_race/math500.jsonl
"""

import json
import sys
from pathlib import Path

RIVALS = {"consensus": [{"k": k} for k in (2, 4, 8, 16, 32, 64, 128)]}
RIVALS["adaptive_consistency"] = [{"stop_confidence": 0.8, "cap": cap} for cap in (4, 8, 12, 32)]
RIVALS["short_m"] = [{"k": 8}]
FIELDS = ("k", "stop_confidence", "cap", "width", "budget", "flight")


def is_shown(row: dict) -> bool:
    """Return whether a row is of race, or one of the rivals."""
    some = RIVALS.get(row["policy"], [{}])
    return any(all(row[name] == value for name, value in one.items()) for one in some)


def interval(row: dict, name: str) -> str:
    """Format a difference in points with its interval."""
    if row.get(name) is None:
        return ""
    value, low, high = (f"{100 * row[name + end]:+.1f}" for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def main(path: Path) -> None:
    """Print the table of the rows in a file."""
    print("| policy | accuracy | against cons@k of equal tokens | against the hull | saved | L |")
    print("| --- " * 6 + "|")
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not is_shown(row):
            continue
        given = ", ".join(f"{name} {row[name]:g}" for name in FIELDS if row.get(name) is not None)
        is_curve = row["policy"] == "consensus"
        cells = [
            f"cons@{row['k']}" if is_curve else f"{row['policy']}, {given}",
            f"{100 * row['accuracy']:.1f}",
            "" if is_curve else interval(row, "accuracy_vs_matched_cons"),
            interval(row, "accuracy_vs_hull"),
            f"{100 * row['token_saving']:.1f} %",
            f"{row['latency']:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
