"""Decide whether a model is run, or its body stays unread: a transplant needs the vocabulary-sized tensors only."""

from __future__ import annotations

from pathlib import Path

import torch

from tokensurgeon.checkpoint import Checkpoint, VocabularyTensors
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.evaluation.loading import computes_in_bfloat16
from tokensurgeon.solver.memory import free_memory

__all__ = ["CPU_LIMIT", "FORWARD_LIMIT", "why_not_run"]

FORWARD_LIMIT = 2 * 1024**3
"""Bytes of body up to which a model is run without being asked, wherever it is."""
CPU_LIMIT = 4 * 1024**3
"""Bytes of a model in bfloat16 up to which a processor that multiplies in it runs one unasked: some two minutes."""
_ROOM = 2
"""Times the model that must be free: what reads the text and what was written are held one after the other."""


def why_not_run(
    directory: Path,
    files: Checkpoint,
    layout: VocabularyTensors,
    wanted: bool | None,
    device: torch.device | None = None,
) -> str | None:
    """The reason for which a model is not run; None if it is.

    Args:
        directory: The model.
        files: Its checkpoint.
        layout: Its vocabulary-sized tensors; the others are its body.
        wanted: What the user says; None leaves it to the model, and to what memory is free for it.
        device: Where it would be run; by default on the processor.
    """
    if wanted is not None:
        return None if wanted else "--no-forward"
    config = read_config(directory)
    if config.get("is_encoder_decoder"):
        return "it is an encoder-decoder model"
    if config.get("quantization_config"):
        return "its body is quantised"
    own = {layout.embedding, layout.head, layout.bias}
    size = sum(info.nbytes for name, info in files.tensors.items() if name not in own)
    device = device or torch.device("cpu")
    if size <= FORWARD_LIMIT or _has_room(files, device):
        return None
    return f"its body has {size / 1024**3:.1f} GiB, more than {device.type} runs unasked"


def _has_room(files: Checkpoint, device: torch.device) -> bool:
    """Whether a device runs a model in a reasonable time, and has memory for it."""
    kinds, fast = {info.dtype for info in files.tensors.values()}, computes_in_bfloat16(device)
    size = sum(info.nbytes for info in files.tensors.values()) // (2 if fast and kinds == {"F32"} else 1)
    slow = not fast or size > CPU_LIMIT or kinds not in ({"F32"}, {"BF16"})
    return not (slow and device.type == "cpu") and free_memory(device) >= _ROOM * size
