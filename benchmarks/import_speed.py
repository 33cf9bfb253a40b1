"""Measure how fast traces are imported, and in how much memory.

    python benchmarks/import_speed.py [MB]

Writes two files with about MB (100 by default) megabytes of text and imports each in a process of
its own: ``counts``, a Parquet file with the columns of a store, whose tokens are counted, and
``text``, JSON lines whose tokens have to be. Prints megabytes of text per second, the seconds,
those of the CPU, which count where other programs run too, and the peak memory of the process.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from deepprune.traces import TraceStore
from deepprune.traces.importers import import_file

WORDS = r"so the next step is to compute x = 12 y^2 and \frac{3}{4} of it wait let me check"
N_TRACES = 32  # per question
CHARS = 12_000  # of a trace


def write_texts(path: Path, megabytes: int) -> None:
    """Write JSON lines with ``megabytes`` of text, one trace a line."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(megabytes * 1_000_000 // CHARS):
            text = " ".join(draw.choices(WORDS.split(), k=CHARS // 4))[: CHARS - 20]
            row = {"question": f"Question {i // N_TRACES}?", "model": "m", "gold": "7"}
            answer = f"\\boxed{{{draw.randint(5, 9)}}}"
            file.write(json.dumps(row | {"text": f"{text} {answer}"}) + "\n")


def measure(name: str, file: Path, megabytes: int) -> None:
    """Import a file, and print the speed and the peak memory."""
    start = time.monotonic()
    import_file(file, file.parent / name)
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = time.process_time()
    print(
        f"{name}: {megabytes / seconds:.1f} MB/s, {seconds:.1f} s, CPU {cpu:.1f} s, "
        f"peak {peak:.0f} MiB"
    )


def main() -> None:
    """Write the files and measure them; with four arguments, measure one."""
    if len(sys.argv) == 4:
        return measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        texts, counts = Path(folder) / "texts.jsonl", Path(folder) / "counts.parquet"
        write_texts(texts, megabytes)
        for name, file in (("text", texts), ("counts", counts)):
            if name == "counts":
                parts = TraceStore.open(Path(folder) / "text").path.glob("part-*.parquet")
                pq.write_table(pq.read_table(list(parts)), counts)
            command = [sys.executable, __file__, name, str(file), str(megabytes)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
