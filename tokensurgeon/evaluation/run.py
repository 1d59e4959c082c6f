"""Score a model directory on texts, with its manifest's help where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import resolve
from tokensurgeon.evaluation.model import load_model, pick_device
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import split_bytes
from tokensurgeon.manifest import Manifest

__all__ = ["evaluate"]

_SHARED = (Provenance.COPIED, Provenance.ROLE, Provenance.OVERRIDE)
_DEAD = (Provenance.UNREACHABLE, Provenance.PADDING)


def evaluate(
    reference: str,
    texts: Mapping[str, str],
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Bits per byte of a model on each text, and their mean.

    Args:
        reference: Model directory, ``.gguf`` file or hub id.
        texts: Name to text.
        device: Where to run.
        progress: Called with (stage, pieces done, pieces in all).

    Returns:
        ``{"mean_bits_per_byte": float, "texts": {name: score}}`` with scores as in `TextScore.as_dict`.
    """
    directory = resolve(reference)
    loaded = load_model(directory, pick_device(device))
    manifest = Manifest.read(directory)
    groups: dict[str, torch.Tensor] = {}
    watched = None
    if manifest is not None:
        shared = torch.zeros(len(manifest.provenance), dtype=torch.bool)
        shared[torch.from_numpy(manifest.ids(*_SHARED))] = True
        groups = {"shared": shared, "new": ~shared}
        watched = torch.from_numpy(manifest.ids(*_DEAD)).to(loaded.model.device)
    pieces = {name: split_bytes(text) for name, text in texts.items()}
    total, done = sum(map(len, pieces.values())), 0
    stage = f"Scoring {directory.name}"

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(stage, done, total)

    scores = {
        name: score_text(loaded.model, loaded.encode, loaded.prefix, parts, groups=groups, watched=watched, tell=tell)
        for name, parts in pieces.items()
    }
    return {
        "mean_bits_per_byte": sum(s.bits_per_byte for s in scores.values()) / max(1, len(scores)),
        "texts": {name: score.as_dict() for name, score in scores.items()},
    }
