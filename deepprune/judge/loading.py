"""Read any trained judge: the one table from a kind to the class that reads it."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Literal

from deepprune.core.errors import InputError
from deepprune.core.options import Gt, Le, Share, checked
from deepprune.judge.base import Judge
from deepprune.judge.baselines import LexicalJudge
from deepprune.judge.cascade import CascadeJudge
from deepprune.judge.saved import CROSS_ENCODER, LINEAR, read_record

KINDS = {  # imported when one is read: the linear judge needs no torch
    CROSS_ENCODER: "deepprune.judge.network.cross_encoder.CrossEncoderJudge",
    LINEAR: "deepprune.judge.linear.LinearJudge",
}
LEXICAL = "lexical"
"""Name of the overlap of numbers as the cheap judge of a cascade, instead of a folder."""


@checked
def load_judge(
    path: Path | str,
    device: str = "auto",
    backbone: str | None = None,
    backend: Literal["transformers", "vllm"] = "transformers",
    gpu_memory_utilization: Annotated[float, Gt(0), Le(1)] = 0.9,
) -> Judge:
    """Read a trained judge from the folder that training exported; needs no Lightning.

    Args:
        path: The folder.
        device: Device of a neural network: ``auto`` or, with transformers, a torch device.
        backbone: The folder of the backbone that LoRA adapters were trained on, if it is not the
            one that the link ``FOLDER.backbone`` beside the export names.
        backend: ``transformers``, or ``vllm`` for a causal cross-encoder (``VllmJudge``).
        gpu_memory_utilization: Share of the GPU's memory that vLLM takes.

    Raises:
        InputError: If the folder is no export, the backend is missing, or device, backbone and
            backend do not fit the judge.
    """
    kind = read_record(Path(path)).kind
    if kind not in KINDS:
        raise InputError(
            f"the judge in {path} must be of kind {' or '.join(KINDS)}, got {kind!r}: it needs "
            "another version of deepprune."
        )
    if backend == "transformers":
        judge: Judge = resolve_name(KINDS[kind]).load(path, device, backbone)
        return judge
    if kind != CROSS_ENCODER:
        raise InputError(
            f"judge.backend=vllm serves cross-encoders, got a judge of kind {kind!r} in {path}: "
            "use judge.backend=transformers."
        )
    from deepprune.judge.network.vllm_scoring import VllmJudge

    return VllmJudge.load(path, device, backbone, gpu_memory_utilization=gpu_memory_utilization)


@checked
def load_cascade(
    cheap: str,
    expensive: str,
    low: Share | None = None,
    high: Share | None = None,
    share: Annotated[float, Gt(0), Le(1)] | None = None,
    device: str = "auto",
) -> CascadeJudge:
    """Build a cascade of two judges, see ``CascadeJudge``.

    Args:
        cheap: The folder of a trained judge, or ``lexical``.
        expensive: The folder of a trained judge.
        low: Start of the band, a score of the cheap judge.
        high: End of the band.
        share: Share of the pairs that the band holds, without ``low`` and ``high``.
        device: Device of neural networks: ``auto`` or a torch device.

    Raises:
        InputError: If a folder is no export, or the band is not given.
    """
    first, second = (
        LexicalJudge() if path == LEXICAL else load_judge(path, device)
        for path in (cheap, expensive)
    )
    return CascadeJudge(first, second, low=low, high=high, share=share)
