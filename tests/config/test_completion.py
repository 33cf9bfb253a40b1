"""Tab completion: which words follow, and the scripts in the shells that are there."""

import shutil
import subprocess
import sys

import pytest

from deepprune import __version__
from deepprune.cli import config_folder, main
from deepprune.config.completion import SCRIPTS, complete
from deepprune.config.schemas import register


@pytest.fixture(autouse=True, scope="module")
def _schemas():
    register()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("deepprune tra", ["traces", "train"]),
        ("deepprune completion z", ["zsh"]),
        ("deepprune train loss=w", ["loss=weighted_bce"]),
        ("python train.py loss=f", ["loss=focal"]),
        ("python train.py los", ["loss.", "loss="]),
        ("deepprune train loss=bce loss.ga", ["loss.gamma="]),
        ("deepprune evaluate sweep.skip_sh", ["sweep.skip_short="]),
        ("deepprune train data.only_unfinished=t", ["data.only_unfinished=true"]),
        ("deepprune prune view=", ["view=json", "view=live", "view=none"]),
        ("deepprune traces ", []),
        ("python other.py lo", []),
    ],
)
def test_words_that_follow(line, words):
    assert complete(line, config_folder()) == words


PRESS_TAB = """
COMP_LINE="deepprune train loss="; COMP_POINT=${#COMP_LINE}; COMP_WORDBREAKS=' ='
_deepprune; echo "${COMPREPLY[@]}"
complete -p deepprune
"""


def test_bash_replaces_what_follows_the_equals_sign(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["completion", "bash"])
    script = capsys.readouterr().out
    done = subprocess.run(["bash", "-c", script + PRESS_TAB], capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert said[0] == "bce focal ranking weighted_bce", done
    assert "-F _deepprune deepprune" in said[1]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_script_is_of_its_shell(shell, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["completion", shell])
    script = capsys.readouterr().out
    assert "completion --line" in script
    assert set(SCRIPTS) == {"bash", "zsh", "fish"}
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_the_version_is_told(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"deepprune {__version__}\n"


def test_a_reader_that_goes_away_ends_the_command_quietly():
    command = [sys.executable, "-m", "deepprune.cli", "traces", "show", "pool", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
