"""Explain errors of a configuration in one line with the way out."""

from __future__ import annotations

import re
import shlex
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deepprune.config.overrides import one_value

RENAMED = {
    "probe_every": "force_every",
    "probe_tokens": "force_tokens",
    "tokens_per_probe": "tokens_per_forced_answer",
}
"""Options of version 0.1 and what they are called now."""


def advise(error: Exception, application: str | None, config_folder: Path) -> str:
    """Explain an error of Hydra or OmegaConf in one line.

    Args:
        error: What was raised.
        application: Name of the application's config, to find the nearest key.
        config_folder: Where the configs are.
    """
    from hydra.errors import OverrideParseException

    text, cause = str(error), error.__cause__
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        example = f"{missing[1]}=VALUE"
        if application == "judge_report":
            example = "deepprune judge-report runs/DIR traces=pool"
        return f"{missing[1]} must be given: {example}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown and (added := re.search(rf"full_key: ({re.escape(unknown[1])}\.\S+)", str(cause))):
        return f"{unknown[1]} takes keys of your own with a plus: +{added[1]}=VALUE"
    if unknown:
        return _unknown_key(unknown[1], application, config_folder)
    missing_choice = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if missing_choice:
        return _unknown_choice(missing_choice[1], config_folder)
    call = re.search(r"Error (?:in call to target|instantiating|locating target) '([^']+)'", text)
    if call and cause is not None:  # a constructor's own message says it best
        key = re.search(r"full_key: (\S+)", text)
        return f"{f'{key[1]}: ' if key else ''}{cause}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is no option: options are OPTION=VALUE, see --help."
    several = re.match(r"(?:Ambiguous|Sweep).*? '(.*)'(?:\s1\.| requires)", text, re.DOTALL)
    if several:
        return _several_values(several[1], application)
    if cause is not None:
        key = re.search(r"full_key: (\S+)", str(cause))
        first = str(cause).splitlines()[0]
        return f"{key[1]}: {first}" if key else f"{text.splitlines()[0]} ({first})"
    return text


def _several_values(override: str, application: str | None) -> str:
    name, _, value = override.partition("=")
    one, many = (shlex.quote(text) for text in (one_value(override), f"{name}=[{value}]"))
    turn = "add -m for a run of each; " if application in ("train", "evaluate") else ""
    return f"{name} has several values: {turn}one value with a comma is {one}, a list is {many}."


def _unknown_key(key: str, application: str | None, config_folder: Path) -> str:
    group, _, name = key.rpartition(".")
    if name in RENAMED:
        return f"{key} has been renamed: use {group}.{RENAMED[name]}."
    keys = option_names(application, config_folder) if application else []
    near = get_close_matches(key, keys, n=1) or get_close_matches(
        key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in keys], n=1
    )
    hint = f"did you mean {near[0]}?" if near else "see --cfg job for all keys."
    if application == "prune" and not near:
        hint += " A question that begins so is question=TEXT."
    return f"there is no option {key!r}; {hint}"


_REMOVED_POLICIES = {"oracle_prune": "oracle", "random_prune": "coin"}
"""Policies of 0.1 that differed from ``deepprune`` in their judge only."""


def _unknown_choice(name: str, config_folder: Path) -> str:
    group, _, choice = name.rpartition("/")
    if group == "hydra/launcher" and choice.startswith(("joblib", "submitit")):
        return f"hydra/launcher={choice} is a plugin of Hydra: pip install 'deepprune[sweeps]'."
    if group == "pruning" and (judge := _REMOVED_POLICIES.get(choice)):
        return (
            f"pruning={choice} is pruning=deepprune with sweep.judges=[{judge}] (or judge={judge})."
        )
    if name == "pruning/adaptive_budget":
        return (
            "pruning=adaptive_budget is gone, its budget in tokens did not carry over to other "
            "models: use pruning=race."
        )
    there = sorted(p.stem for p in (config_folder / group).glob("*.yaml"))
    near = get_close_matches(choice, there, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no {group} {choice!r}; {hint}Those that exist: {', '.join(there)}."


def option_names(application: str, config_folder: Path) -> list[str]:
    """Return all keys of the application's default configuration."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder), version_base="1.3"):
        config = compose(application)
    return list(_walk(config))


def _walk(node: Any, name: str = "") -> list[str]:
    from omegaconf import DictConfig, OmegaConf

    if not isinstance(node, DictConfig):
        return [name]
    keys = [name] if name else []
    for key in map(str, node):
        full = f"{name}.{key}" if name else key
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            keys.append(full)
        else:
            keys.extend(_walk(node[key], full))
    return keys
