"""Read any trained judge: the one table from a kind to the class that reads it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from deepprune.core.errors import InputError
from deepprune.judge.base import Judge
from deepprune.judge.saved import (
    BI_ENCODER,
    CASCADE,
    CROSS_ENCODER,
    FEATURES,
    PROBE,
    read_record,
)

_KINDS = {  # imported when one is read: some need torch, others load without it
    CROSS_ENCODER: "deepprune.judge.network.cross_encoder.CrossEncoderJudge",
    BI_ENCODER: "deepprune.judge.linear.BiEncoderJudge",
    FEATURES: "deepprune.judge.features.overlaps.FeaturesJudge",
    PROBE: "deepprune.judge.features.forced_answers.ProbeJudge",
    CASCADE: "deepprune.judge.cascade.CascadeJudge",
}
_BACKENDS = ("transformers", "vllm")


def load_judge(
    path: Path | str,
    device: str = "auto",
    backbone: str | None = None,
    backend: str = "transformers",
    gpu_memory_utilization: float = 0.9,
) -> Judge:
    """Read a trained judge from the folder that training exported; needs no Lightning.

    Args:
        path: The folder.
        device: Where a neural network computes: ``auto`` or, with transformers, a torch device.
        backbone: The source that it must have been trained from; ``None`` for any.
        backend: ``transformers``, or ``vllm`` for a causal cross-encoder (``VllmJudge``).
        gpu_memory_utilization: The share of the GPU's memory that vLLM takes, in (0, 1].

    Raises:
        InputError: If the folder is no export, the backend is missing, or device, backbone and
            backend do not fit the judge.
    """
    if backend not in _BACKENDS:
        raise InputError(f"judge.backend must be {' or '.join(_BACKENDS)}, got {backend!r}.")
    kind = read_record(Path(path)).get("kind", CROSS_ENCODER)
    if kind not in _KINDS:
        raise InputError(
            f"the judge in {path} must be of a kind that this version knows, got {kind!r}: it "
            "needs another version of deepprune."
        )
    if backend == "transformers":
        module, _, name = _KINDS[kind].rpartition(".")
        reader: Any = getattr(import_module(module), name)
        judge: Judge = reader.load(path, device, backbone)
        return judge
    if kind != CROSS_ENCODER:
        raise InputError(
            f"judge.backend=vllm serves cross-encoders, got a judge of kind {kind!r} in {path}: "
            "use judge.backend=transformers."
        )
    from deepprune.judge.network.vllm_scoring import VllmJudge

    return VllmJudge.load(path, device, backbone, gpu_memory_utilization=gpu_memory_utilization)
