"""Regenerate the sample outputs in README and docs: make outputs.

The block after a comment ``<!-- output of: COMMAND -->`` becomes what COMMAND prints on standard
output. Commands run in FOLDER, the first argument, where runs of the same command resume.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("experiments/*/README.md")]
BLOCK = re.compile(r"(<!-- output of: (.+?) -->\n```\n).*?(?=^```$)", re.S | re.M)


def regenerated(text: str, folder: Path) -> str:
    """Return a page whose marked blocks have the output of their commands, run in ``folder``."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}

    def block(found: re.Match[str]) -> str:
        print(found[2], file=sys.stderr)
        done = subprocess.run(
            found[2], shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
        )
        lines = done.stdout.decode().rstrip().splitlines()
        return found[1] + "".join(f"{line.rstrip()}\n" for line in lines)

    return BLOCK.sub(block, text)


def main(folder: Path) -> None:
    if not (folder / "train.py").exists():
        (folder / "train.py").symlink_to(ROOT / "train.py")
    for page in PAGES:
        if (new := regenerated(page.read_text(), folder)) != page.read_text():
            page.write_text(new)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
