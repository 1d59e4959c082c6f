"""Decide whether a model is run, or its body stays unread: a transplant needs the vocabulary-sized tensors only."""

from __future__ import annotations

from pathlib import Path

from tokensurgeon.checkpoint import Checkpoint, VocabularyTensors
from tokensurgeon.checkpoint.layout import read_config

__all__ = ["FORWARD_LIMIT", "why_not_run"]

FORWARD_LIMIT = 2 * 1024**3
"""Bytes of body up to which a model is run without being asked."""


def why_not_run(directory: Path, files: Checkpoint, layout: VocabularyTensors, wanted: bool | None) -> str | None:
    """The reason for which a model is not run; None if it is.

    Args:
        directory: The model.
        files: Its checkpoint.
        layout: Its vocabulary-sized tensors; the others are its body.
        wanted: What the user says; None leaves it to the model.
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
    if size > FORWARD_LIMIT:
        return (
            f"its body has {size / 1024**3:.1f} GiB, more than the {FORWARD_LIMIT / 1024**3:.0f} that are run unasked"
        )
    return None
