"""What runs a trained judge: transformers, or vLLM."""

from __future__ import annotations

from pathlib import Path

from deepprune.core.errors import InputError
from deepprune.judge.base import Judge
from deepprune.judge.saved import CROSS_ENCODER, read_record

_BACKENDS = ("transformers", "vllm")


def load_judge(
    path: Path | str,
    device: str = "auto",
    backbone: str | None = None,
    backend: str = "transformers",
    gpu_memory_utilization: float = 0.9,
) -> Judge:
    """Read a trained judge, see ``Judge.load``, to be run by a backend.

    Args:
        path: The folder that training exported.
        device: ``auto`` or, with transformers, a torch device.
        backbone: The source that it must have been trained from; ``None`` for any.
        backend: ``transformers``, or ``vllm`` for a causal cross-encoder (`VllmJudge`).
        gpu_memory_utilization: The share of the GPU's memory that vLLM takes, in (0, 1].

    Raises:
        InputError: If the folder is no export, the backend is not there, or device, backbone and
            backend do not fit the judge.
    """
    if backend not in _BACKENDS:
        raise InputError(f"judge.backend must be {' or '.join(_BACKENDS)}, got {backend!r}.")
    if backend == "transformers":
        return Judge.load(path, device, backbone)
    kind = read_record(Path(path)).get("kind", CROSS_ENCODER)
    if kind != CROSS_ENCODER:
        raise InputError(
            f"judge.backend=vllm serves cross-encoders, got a judge of kind {kind!r} in {path}: "
            "use judge.backend=transformers."
        )
    from deepprune.judge.network.vllm_scoring import VllmJudge  # torch only here

    return VllmJudge.load(path, device, backbone, gpu_memory_utilization=gpu_memory_utilization)
