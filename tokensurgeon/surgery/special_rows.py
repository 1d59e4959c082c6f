"""Say which of the model's own rows a new special token's row is the mean of."""

from __future__ import annotations

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.token import STRUCTURE

__all__ = ["control_ids", "word_ids"]

_COPY = 0.99
"""Two centred rows with a larger cosine are near-copies: tokens that training never saw drift together."""
_COMPARED = 4096


def word_ids(vocabulary: Vocabulary, literal: str, words: str, rows: int) -> list[int]:
    """The pieces of the words that a literal stands for.

    Args:
        vocabulary: The model's.
        literal: For the message.
        words: Such as ``think``.
        rows: Of the embedding.

    Raises:
        InputError: If the words have no piece with a row.
    """
    ids = [i for i in vocabulary.encode(words) if i < rows]
    if not ids:
        raise InputError(f"special token {literal!r}: {words!r} has no token of the model. Give other words, or none")
    return ids


def control_ids(vocabulary: Vocabulary, template: str | None, embedding: torch.Tensor) -> list[int]:
    """The model's control tokens that training has seen; none where there are none.

    First those of turns and documents, or that the chat template writes, whose row is no near-copy of another control
    token's (as those of ``<unused17>`` are, and of reserved tokens); failing that, all that are no near-copies.

    Args:
        vocabulary: The model's.
        template: Its chat template.
        embedding: (rows, dim) its input embedding.
    """
    control = [i for i, key in enumerate(vocabulary.keys[: len(embedding)]) if key is not None and not key.is_text]
    rows = embedding[control].float() - embedding.float().mean(dim=0)
    rows = torch.nn.functional.normalize(rows, dim=1)
    trained = []
    for start in range(0, len(control), _COMPARED):
        alike = rows[start : start + _COMPARED] @ rows.T
        alike[torch.arange(len(alike)), torch.arange(start, start + len(alike))] = -1
        single = (alike.amax(dim=1) <= _COPY) & rows[start : start + _COMPARED].any(dim=1)
        trained += [control[start + i] for i in torch.nonzero(single).flatten().tolist()]
    used = set(vocabulary.roles.of(*STRUCTURE))
    used |= {i for i in control if template and (vocabulary.pieces[i] or " ") in template}
    return [i for i in trained if i in used] or trained
