"""Find control tokens that training never saw, by rows that are known to be so."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.token import NEVER_PREDICTED

__all__ = ["untrained_ids"]

_ALIKE, _NEAR = 0.75, 50.0
"""Centred cosine with the mean of the rows that were never trained, and distance from it in units of theirs (median).
Those have 0.98 and more; Gemma-3-270M's ``<end_of_turn>`` has 0.98 and 10 units, its ``<start_of_turn>`` 0.88 and 26,
which is of no use either (``benchmarks/LOG.md``). Tokens that were trained have a cosine of 0.5 and less, or as
Qwen2.5-Coder-1.5B's ``<|im_start|>`` 0.78, but are 211 units away."""
_ROUNDING = 1e-3
"""Of the norm of such rows, which may be equal to the last bit."""
_FEWEST = 8


def untrained_ids(vocabulary: Vocabulary, embedding: torch.Tensor, placeholders: Iterable[int] = ()) -> frozenset[int]:
    """Ids of control tokens whose rows are like those of tokens that no text has.

    Args:
        vocabulary: Of a model.
        embedding: (rows, dim) its input embedding.
        placeholders: Ids of tokens that only keep a place, such as ``<unused17>``.

    Returns:
        Nothing where the model has fewer than eight such rows to compare with.

    Example:
        Gemma-3-270M was never trained on turns: its ``<end_of_turn>`` is like the byte pieces that never come out.
    """
    rows = len(embedding)
    dead = np.flatnonzero(~vocabulary.canonical[:rows]).tolist()
    never = [i for i in dead if vocabulary.keys[i] is not None]
    if len(never) < _FEWEST:
        never += [i for i in placeholders if i < rows]
    asked = sorted(i for i in vocabulary.roles.of() - vocabulary.roles.of(*NEVER_PREDICTED) if i < rows)
    if len(never) < _FEWEST or not asked:
        return frozenset()
    mean = embedding.mean(dim=0, dtype=torch.float32)
    middle = embedding[never].mean(dim=0, dtype=torch.float32)
    unit, own = (embedding[never].float() - middle).norm(dim=1).median(), embedding[asked].float()
    cosine = torch.nn.functional.cosine_similarity(own - mean, middle[None] - mean, dim=1)
    near = (own - middle).norm(dim=1) <= _NEAR * unit + _ROUNDING * middle.norm()
    return frozenset(i for i, alike in zip(asked, ((cosine > _ALIKE) & near).tolist(), strict=True) if alike)
