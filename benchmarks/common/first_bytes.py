"""How far a model's belief about the next byte is from another's, at places where both have read the same bytes.

Models with other tokens cannot be compared token by token; the first byte of the next token is a question to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.vocabulary.meeting import token_bytes

__all__ = ["divergence", "ends_of", "first_bytes"]

_ROWS = 64


def first_bytes(directory: Path, loaded: LoadedModel, pieces: Sequence[str]) -> list[dict[str, Any]]:
    """What a model believes along pieces of text.

    Returns:
        Of each ``ends``: by token, bytes read with it; ``beliefs``: (tokens, 257) log-probabilities of the next byte,
        and of a control token.
    """
    spelled = token_bytes(TokenizerFiles.open(directory).vocabulary())
    first = torch.full((len(loaded.model.get_output_embeddings().weight),), 256)
    known = [i for i, text in enumerate(spelled[: len(first)]) if text]
    first[known] = torch.tensor([spelled[i][0] for i in known])
    return [_along(loaded, spelled, first, loaded.encode(piece)) for piece in pieces]


def _along(loaded: LoadedModel, spelled: Sequence[bytes], first: torch.Tensor, ids: list[int]) -> dict[str, Any]:
    before = [] if loaded.prefix is None else [loaded.prefix]
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([before + ids]), use_cache=False).logits[0, len(before) :]
        found = [
            torch.zeros(len(some), 257).index_add_(1, first, some.float().softmax(dim=-1))
            for some in torch.split(logits, _ROWS)
        ]
    return {"ends": ends_of([spelled[i] for i in ids]), "beliefs": torch.cat(found).clamp(min=1e-9).log().numpy()}


def ends_of(tokens: Sequence[bytes]) -> list[int]:
    """Bytes read with each token."""
    return np.cumsum([len(token) for token in tokens]).tolist()


def divergence(teacher: dict[str, Any], student: dict[str, Any]) -> tuple[float, int]:
    """Sum over common places of the divergence from the teacher's belief, in nats, and how many they are."""
    place = {end: row for row, end in enumerate(teacher["ends"])}
    pairs = [(place[end], row) for row, end in enumerate(student["ends"]) if end in place]
    wanted, given = (
        side["beliefs"][list(rows)] for side, rows in zip((teacher, student), zip(*pairs, strict=True), strict=True)
    )
    return float((np.exp(wanted) * (wanted - given)).sum()), len(pairs)
