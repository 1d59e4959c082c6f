"""Score a model directory on texts, with its manifest's help where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import resolve
from tokensurgeon.checkpoint.cache import shown_name
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.loading import LoadedModel, load_model, pick_device
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import Text, TextPieces
from tokensurgeon.progress import Progress, Stage

__all__ = ["evaluate", "gold_groups"]

_SHARED = (Provenance.COPIED, Provenance.ROLE, Provenance.OVERRIDE)


def gold_groups(manifest: Manifest | None, loaded: LoadedModel) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """How `score_text` splits the loss by gold token, and which ids it watches.

    Args:
        manifest: Provenance of the rows; None for a model that was not transplanted.
        loaded: The model; its head may have more or fewer rows than the manifest tells of.

    Returns:
        ``shared`` and ``new`` as masks, and the silenced ids on the model's device; nothing without a manifest.
    """
    if manifest is None:
        return {}, None
    rows = loaded.model.get_output_embeddings().weight.shape[0]
    shared = torch.zeros(max(manifest.plan.n_rows, rows), dtype=torch.bool)
    shared[torch.from_numpy(manifest.plan.ids(*_SHARED))] = True
    blends = torch.tensor([int(i) for i in manifest.content.get("blends", {})], dtype=torch.int64)
    shared[blends[blends < len(shared)]] = True  # some of them may have been trained since
    dead = torch.from_numpy(manifest.plan.silenced)
    return {"shared": shared, "new": ~shared}, dead[dead < rows].to(loaded.model.device)


def evaluate(
    reference: str,
    texts: Mapping[str, str | Text],
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bits per byte of a model on each text, and their mean.

    Args:
        reference: Model directory, ``.gguf`` file or hub id.
        texts: Name to text, or to a `tokensurgeon.evaluation.texts.Text`, which may be larger than the memory.
        device: Where to run.
        progress: Called with (stage, pieces done, pieces in all).

    Returns:
        ``{"mean_bits_per_byte": float, "texts": {name: score}}`` with scores as in `TextScore.as_dict`.

    Example:
        >>> import tokensurgeon
        >>> scores = tokensurgeon.evaluate("base", {"greeting": "Hello, world!"})
        >>> scores["texts"]["greeting"]["bytes"]
        13
    """
    directory = resolve(reference)
    loaded = load_model(directory, pick_device(device))
    manifest = Manifest.read(directory)
    groups, watched = gold_groups(manifest, loaded)
    given = {name: Text.of(text, name) if isinstance(text, str) else text for name, text in texts.items()}
    pieces = {name: TextPieces.of([text]) for name, text in given.items()}
    total, done = sum(map(len, pieces.values())), 0
    stage = Stage.SCORE.of(shown_name(reference))

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
