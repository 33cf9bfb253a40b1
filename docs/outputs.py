"""Regenerate the sample outputs in README and docs, and two pictures: make outputs.

The block after a comment ``<!-- output of: COMMAND -->`` becomes what COMMAND prints on standard
output. Commands run in FOLDER, the first argument, where runs of the same command resume.
``prune.svg`` becomes the last frame of a question that is pruned in a terminal, ``report.png`` the
top of the demo's page.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from io import StringIO
from pathlib import Path
from unittest import mock

from rich.console import Console

from deepprune.cli import main as deepprune
from deepprune.commands import prune
from deepprune.evaluation.watcher import Watcher
from deepprune.live.question import LiveQuestion, LiveResult
from deepprune.live.view import question_frame

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("experiments/*/README.md")]
DEMO, PHOTOGRAPH = "runs/demo/report.html", ROOT / "docs" / "report.png"
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


class Picture(Watcher):
    """Draws a question as ``LiveView`` does, once it is decided."""

    def __init__(self, title: str, n_questions: int) -> None:
        self._title = title

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        console = Console(record=True, force_terminal=True, width=100, file=StringIO())
        console.print(question_frame(live, row, self._title))
        console.save_svg(str(ROOT / "docs" / "prune.svg"), title="deepprune prune")


def draw_view(folder: Path) -> None:
    """Prune a question that the pool has, with a picture in place of the lines."""
    with mock.patch.object(prune, "ProgressLines", Picture), suppress(SystemExit):
        deepprune(["prune", "basic_arithmetic-04", "threshold=0.6", f"hydra.run.dir={folder}"])


def photograph(page: Path) -> None:
    """Write the top of a page to `PHOTOGRAPH`; needs Chromium and playwright."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 1260})
        tab.goto(page.absolute().as_uri())
        tab.locator('[data-state="drawn"]').first.wait_for()
        tab.screenshot(path=PHOTOGRAPH)
        browser.close()


def main(folder: Path) -> None:
    draw_view(folder / "runs" / "view")
    if not (folder / "train.py").exists():
        (folder / "train.py").symlink_to(ROOT / "train.py")
    for page in PAGES:
        if (new := regenerated(page.read_text(), folder)) != page.read_text():
            page.write_text(new)
    photograph(folder / DEMO)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
