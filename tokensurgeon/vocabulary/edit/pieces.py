"""Read what ``tokenizer.json`` says about a model's pieces and how they are joined."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokensurgeon.errors import InputError

__all__ = ["Word", "continuation", "is_byte", "joined", "merge_ranks", "merged", "vocab_of"]

Word = tuple[str, ...]
"""Pieces that may become one."""

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_MODELS = ("BPE", "Unigram", "WordPiece")


def vocab_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """Pieces to ids, without added tokens that the model itself does not have.

    Raises:
        InputError: If the tokenizer is of a kind that cannot be trimmed or extended.
    """
    model = spec["model"]
    if model["type"] not in _MODELS:
        raise InputError(f"a tokenizer of type {model['type']} cannot be trimmed or extended; {', '.join(_MODELS)} can")
    if suffix := model.get("end_of_word_suffix"):
        raise InputError(
            f"a tokenizer whose words end in {suffix!r} (end_of_word_suffix) cannot be trimmed or extended. "
            "Give the model a byte-level tokenizer first"
        )
    if model["type"] == "Unigram":
        return {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def merge_ranks(spec: Mapping[str, Any]) -> dict[Word, int]:
    """Merges to their places; none for other models than BPE."""
    merges = spec["model"].get("merges", [])
    return {tuple(m) if isinstance(m, list) else tuple(m.split(" ", 1)): rank for rank, m in enumerate(merges)}


def continuation(spec: Mapping[str, Any]) -> str:
    """What pieces that go on with a word begin with, in WordPiece; nothing elsewhere."""
    return str(spec["model"].get("continuing_subword_prefix") or "")


def is_byte(piece: str) -> bool:
    """Whether a piece of a tokenizer with byte fallback stands for one byte, as ``<0x41>`` does."""
    return len(piece) == 6 and _BYTE.fullmatch(piece) is not None


def joined(parts: Sequence[str], prefix: str) -> str:
    """The piece that parts make; all but the first lose the prefix of a continuation."""
    return parts[0] + "".join(part.removeprefix(prefix) for part in parts[1:])


def merged(parts: Sequence[str], ranks: Mapping[Word, int], prefix: str = "") -> tuple[list[str], list[Word]]:
    """Merge as byte pair encoding does: the pair of lowest rank first, and from the left.

    Returns:
        The pieces that are left, and the pairs that were merged, in this order.
    """
    parts = list(parts)
    used: list[Word] = []
    while len(parts) > 1:
        found = [ranks.get(pair, len(ranks)) for pair in itertools.pairwise(parts)]
        best = min(found)
        if best == len(ranks):
            break
        at = found.index(best)
        used.append((parts[at], parts[at + 1]))
        parts[at : at + 2] = [joined(parts[at : at + 2], prefix)]
    return parts, used
