"""Runs that the agent of ``wandb sweep`` starts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepprune.config.overrides import quoted
from deepprune.core.errors import InputError


def is_agent() -> bool:
    """Return whether an agent of ``wandb sweep`` has started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"))


def agent_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the overrides that the agent means.

    The command line of an agent holds ``None`` as text and ``a,b`` as what Hydra takes for a sweep.
    The file that ``WANDB_SWEEP_PARAM_PATH`` names has the values with their types. The run folder
    is ``runs/sweep-ID/RUN_ID``, so that a requeued run resumes; it is online unless ``WANDB_MODE``
    says otherwise.

    Raises:
        InputError: For a multirun, whose jobs would all be the one run of the agent.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise InputError(
            "an agent of wandb sweep starts one run at a time: leave -m out of the sweep's "
            "command, and put what varies into its parameters."
        )
    parameters = _parameters(os.environ.get("WANDB_SWEEP_PARAM_PATH"))
    kept = [a for a in arguments if a.partition("=")[0] not in parameters]
    folder = f"runs/sweep-{os.environ['WANDB_SWEEP_ID']}/{os.environ['WANDB_RUN_ID']}"
    if not any(argument.startswith("hydra.run.dir=") for argument in kept):
        kept.append(f"hydra.run.dir={folder}")
    if "WANDB_MODE" not in os.environ and not any(a.startswith("logger") for a in kept):
        kept.append("logger.mode=online")
    return [*kept, *(f"{name}={hydra_value(value)}" for name, value in parameters.items())]


def hydra_value(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{hydra_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _parameters(path: str | None) -> dict[str, Any]:
    """Read the parameters of a run; a parameter is ``{value: ...}``."""
    import yaml

    if path is None:
        return {}
    read = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    return {k: v["value"] for k, v in read.items() if isinstance(v, Mapping) and "value" in v}
