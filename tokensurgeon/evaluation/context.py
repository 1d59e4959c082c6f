"""Cut text to what a model can read at once: one with learned positions has no row for what comes after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["Encode", "context_of", "halved", "inputs_of"]

Encode = Callable[[str], list[int]]
"""Text to ids, without special tokens."""


def context_of(model: Any) -> int | None:
    """Tokens that a model reads at most; None where its config says nothing."""
    config = getattr(model, "config", None)
    if config is None:
        return None
    text = config.get_text_config()
    sizes = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    size = next((size for size in sizes if isinstance(size, int) and size > 0), None)
    for name, module in model.named_modules():
        learned = isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings")
        if learned and module.padding_idx is not None and module.num_embeddings == size:
            # RoBERTa counts from behind the padding's own position
            return int(module.num_embeddings - module.padding_idx) - 1
    return size


def halved(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A text, or its halves and their halves until each fits; what cannot be halved stays."""
    if len(text) < 2 or fits(text):
        return [text]
    middle = len(text) // 2
    return halved(text[:middle], fits) + halved(text[middle:], fits)


def inputs_of(encode: Encode, prefix: int | None, piece: str, context: int | None) -> Iterator[tuple[str, list[int]]]:
    """A piece of text as a model can read it: parts that together are the piece, each with its ids.

    Args:
        encode: Text to ids, without special tokens.
        prefix: Id that every part starts with, or None.
        piece: The text.
        context: As `context_of` gives it.
    """
    ids = encode(piece) if prefix is None else [prefix, *encode(piece)]
    if context is None or len(ids) <= context or len(piece) < 2:
        yield piece, ids[:context]
        return
    middle = len(piece) // 2
    yield from inputs_of(encode, prefix, piece[:middle], context)
    yield from inputs_of(encode, prefix, piece[middle:], context)
