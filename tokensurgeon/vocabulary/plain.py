"""Make a tokenizer cut a whole text, and the same way each time."""

from __future__ import annotations

from tokenizers import Tokenizer

__all__ = ["plain_tokenizer"]


def plain_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer without truncation, padding, and dropout (merges left out by chance, meant for training).

    Args:
        tokenizer: Is not changed; it is returned itself where it has none of them.
    """
    dropout = getattr(tokenizer.model, "dropout", None)
    if tokenizer.truncation is None and tokenizer.padding is None and not dropout:
        return tokenizer
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    if dropout:
        plain.model.dropout = None
    return plain
