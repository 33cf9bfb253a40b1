"""Tab completion of ``deepprune COMMAND`` and ``train.py`` in bash, zsh and fish."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from deepprune.config.advice import option_names
from deepprune.config.schemas import RULES
from deepprune.core.options import choices, parts

_BASH = """\
_deepprune() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" word found
  [[ $line =~ (deepprune|train\\.py)[[:space:]] ]] || return
  word="${{line##*[[:space:]]}}"
  COMPREPLY=()
  while IFS= read -r found; do
    # bash replaces what follows the last = or :, where these break words
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && found="${{found#"${{word%=*}}="}}"
    COMPREPLY+=("$found")
  done < <({program} completion --line "$line")
  type compopt >/dev/null 2>&1 && [[ ${{#COMPREPLY[@]}} -gt 0 ]] && compopt -o nospace 2>/dev/null
}}
complete -o default -o bashdefault -F _deepprune deepprune train.py ./train.py python python3
"""
_ZSH = """\
_deepprune() {{
  if [[ $LBUFFER != *(deepprune|train.py)\\ * ]]; then
    _default
    return
  fi
  local -a found
  found=("${{(@f)$({program} completion --line "$LBUFFER")}}")
  compadd -S '' -- $found
}}
compdef _deepprune deepprune train.py ./train.py python python3
"""
_FISH = """\
complete -c deepprune -f -a '({program} completion --line (commandline -cp | string collect))'
for command in train.py ./train.py python python3
    complete -c $command -n 'string match -q "*train.py *" -- (commandline -cp)' -f \\
        -a '({program} completion --line (commandline -cp | string collect))'
end
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
COMMANDS = (
    "collect", "train", "evaluate", "prune", "report", "judge-report", "traces", "push", "doctor",
    "completion",
)  # fmt: skip


def script(shell: str) -> str:
    """Return what a shell evaluates, e.g. ``eval "$(deepprune completion bash)"``."""
    return SCRIPTS[shell].format(program=f"{shlex.quote(sys.executable)} -m deepprune.cli")


def complete(line: str, config_folder: Path) -> list[str]:
    """Return the words that can stand at the end of ``line``.

    Args:
        line: The command line up to the cursor.
        config_folder: Where the YAML files are.
    """
    words = line.split(" ")
    *before, word = words
    names = [Path(name).name for name in before]
    if "train.py" in names:
        command = "train"
    elif names[-1:] == ["deepprune"]:
        return _starting(word, COMMANDS)
    else:
        command = next((name for name in names if name in COMMANDS), "")
    if command in ("", "traces", "push", "completion"):
        return _starting(word, SCRIPTS) if command == "completion" else []
    application = command.replace("-", "_")
    groups = _groups(application, config_folder)
    name, is_value, value = word.partition("=")
    if is_value:
        given = [p.stem for p in (config_folder / name).glob("*.yaml")] if name in groups else []
        return [f"{name}={found}" for found in _starting(value, given or _values(name))]
    there = [f"{group}=" for group in groups]
    there += [f"{option}=" for option in option_names(application, config_folder)]
    return _starting(word, _next_level(word, there))


def _starting(word: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(word)})


def _groups(application: str, config_folder: Path) -> list[str]:
    text = (config_folder / f"{application}.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^  - (\w+):", text, flags=re.MULTILINE)
    return [name for name in found if (config_folder / name).is_dir()]


def _values(option: str) -> list[str]:
    """Return the choices of an option, of those that a schema lists."""
    name, found = option.rpartition(".")[2], set[str]()
    for rules in RULES.values():
        if name in rules:
            kind = parts(rules[name])[0]
            found |= {"true", "false"} if kind is bool else set(map(str, choices(kind)))
    return sorted(found)


def _next_level(word: str, names: Iterable[str]) -> Iterable[str]:
    """Yield names up to the first point behind ``word``: ``loss.`` before ``loss.gamma=``."""
    for name in names:
        point = name.find(".", len(word))
        yield name if point < 0 else name[: point + 1]
