"""Decide whether a model is run, or its body stays unread: a transplant needs the vocabulary-sized tensors only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint import Checkpoint, VocabularyTensors
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.evaluation.loading import computes_in_bfloat16, pick_device
from tokensurgeon.solver.memory import free_memory

__all__ = ["CPU_LIMIT", "FORWARD_LIMIT", "VERIFY", "why_not_run"]

FORWARD_LIMIT = 2 * 1024**3
"""Bytes of body up to which a model is run without being asked, wherever it is."""
CPU_LIMIT = 4 * 1024**3
"""Bytes of a model as it is run up to which a processor that multiplies in bfloat16 runs one unasked: minutes."""
VERIFY = "verify --forward"
"""What runs the outputs of commands that have no flag for it."""
_ROOM = 2
"""Times the model that must be free where it is run: text, logits and new rows need room beside it."""


def why_not_run(
    directory: Path,
    files: Checkpoint,
    layout: VocabularyTensors,
    wanted: bool | None,
    device: str = "cpu",
    flag: str = "--forward",
) -> str | None:
    """The reason for which a model is not run; None if it is.

    Args:
        directory: The model.
        files: Its checkpoint.
        layout: Its vocabulary-sized tensors; the others are its body.
        wanted: What the user says; None leaves it to the model, and to what memory is free for it.
        device: Where it would be run, as `tokensurgeon.evaluation.loading.pick_device` takes it.
        flag: What runs it all the same.
    """
    if wanted is not None:
        return None if wanted else "--no-forward"
    config = read_config(directory)
    if config.get("is_encoder_decoder"):
        return "it is an encoder-decoder model"
    if config.get("quantization_config"):
        return "its body is quantised"
    own = {layout.embedding, layout.head, layout.bias}
    body = sum(info.nbytes for name, info in files.tensors.items() if name not in own)
    obstacle = None if body <= FORWARD_LIMIT else _obstacle(config, files, pick_device(device), flag)
    return obstacle and f"its body has {body / 1024**3:.1f} GiB, and {obstacle}"


def _obstacle(config: dict[str, Any], files: Checkpoint, device: torch.device, flag: str) -> str | None:
    """Why a device does not run a model in a reasonable time, or has no memory for it."""
    kinds, fast = {info.dtype for info in files.tensors.values()}, computes_in_bfloat16(device)
    declared = str(config.get("dtype") or config.get("torch_dtype"))
    half = (fast and kinds == {"F32"}) or (kinds != {"F32"} and not declared.endswith("float32"))
    size = sum(math.prod(info.shape) for info in files.tensors.values()) * (2 if half else 4)
    if device.type == "cpu" and not (fast and kinds <= {"F32", "BF16"}):
        return f"this processor would take long for its kind of numbers; {flag} runs it"
    if device.type == "cpu" and size > CPU_LIMIT:
        return f"a processor runs up to {CPU_LIMIT / 1024**3:.0f} unasked; {flag} runs it"
    host = torch.device("cpu")
    for place, needed in ((device, _ROOM * size), (host, size)):  # it is loaded on the host
        free = free_memory(place)
        if free < needed:
            sizes = f"{needed / 1024**3:.1f} GiB, where {place.type} has {free / 1024**3:.1f} free"
            return f"it needs {sizes}; --forward tries"
    return None
