"""The W&B run of a command."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def start_run(
    folder: Path,
    config: Mapping[str, Any],
    *,
    project: str,
    mode: str = "offline",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    job_type: str = "train",
) -> Any:
    """Start a W&B run with its files in ``folder/wandb``.

    An offline run needs no account; ``wandb sync`` uploads it later. A resumed run keeps its id, so
    that W&B joins both parts. The group is the name of a multirun, the tags are its varied options,
    e.g. ``loss=bce``. The caller finishes the ``wandb.Run``.
    """
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "wandb_id"
    if not marker.exists():
        marker.write_text(secrets.token_hex(4))
    os.environ.setdefault("WANDB_SILENT", "true")
    return wandb.init(
        dir=folder,
        config=dict(config),
        project=project,
        entity=entity,
        mode=mode,  # type: ignore[arg-type]
        group=group,
        tags=[t[:64] for t in tags],
        job_type=job_type,
        name=f"{group}/{folder.name}" if group else folder.name,
        id=marker.read_text().strip(),
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(console="off", silent=True),
    )
