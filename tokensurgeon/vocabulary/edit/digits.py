"""Make a tokenizer cut numbers digit by digit, and everything else as before; every id stays what it was.

A body that has only ever read single digits knows nothing of ``365`` as one token, and no row tells it: the head
can say how likely the first digit is, never the following ones. So the digits are cut apart where the tokenizer cuts
text into words, behind all its own steps, which then never see a difference. Tokens with several digits, or a digit
and something else, are never emitted any more. WordPiece would take every digit for a word of its own and give
``365`` back as ``3 6 5``; there, such tokens lose their spelling instead, and the greedy match falls back to digits.

Only ``0`` to ``9`` are cut apart: behind a byte-level step every other digit is several symbols already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokensurgeon.vocabulary.vocabulary import Vocabulary

__all__ = ["PROBES", "digit_tokens", "digitwise_spec", "is_digitwise", "spaced_digits"]

PROBES = ("7", "42", "365", "1984", "31415", "1234567", " 2024", "3.14159", "12+345=357")
"""Numbers that show how a tokenizer cuts numbers."""

_SPLIT = {"type": "Split", "pattern": {"Regex": "[0-9]"}, "behavior": "Isolated", "invert": False}
_DIGIT, _DIGITS = re.compile(r"[0-9]"), re.compile(rb"[0-9]{2}")
_UNSPELLED = "[number] "
"""Before a word piece that must never match: no word holds a space."""


def is_digitwise(vocabulary: Vocabulary) -> bool:
    """Whether a tokenizer cuts numbers digit by digit."""
    keys = (vocabulary.keys[i] for probe in PROBES for i in vocabulary.encode(probe))
    return not any(key is not None and _DIGITS.search(key.data) for key in keys)


def digit_tokens(vocabulary: Vocabulary) -> list[int]:
    """Ids of tokens with several digits in a row that the tokenizer emits, such as ``365``."""
    return [
        i
        for i, key in enumerate(vocabulary.keys)
        if key is not None and key.is_text and vocabulary.canonical[i] and _DIGITS.search(key.data)
    ]


def spaced_digits(vocabulary: Vocabulary) -> dict[str, str]:
    """Digits that come out with a space before them, as text that each stands for.

    Cut apart, most numbers begin with such a piece; left to a method, they gain little (``benchmarks/LOG.md``).

    Args:
        vocabulary: Of a tokenizer that cuts numbers digit by digit now, and did not.
    """
    found = {}
    for digit in "0123456789":
        ids = vocabulary.encode(digit)
        key = vocabulary.keys[ids[0]] if len(ids) == 1 else None
        if key is not None and key.data == f" {digit}".encode():
            found[digit] = f" {digit}"
    return found


def digitwise_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A ``tokenizer.json`` that cuts digits apart.

    Args:
        spec: The parsed file.

    Returns:
        A changed copy: with one more step of pre-tokenization, or, for WordPiece, other spellings of pieces that are
        never emitted.
    """
    model = spec["model"]
    if model["type"] == "WordPiece":
        kept = {token["content"] for token in spec.get("added_tokens", [])}
        prefix = str(model.get("continuing_subword_prefix") or "")

        def spelled(piece: str) -> str:
            text = piece.removeprefix(prefix)
            return _UNSPELLED + piece if len(text) > 1 and _DIGIT.search(text) and piece not in kept else piece

        return {**spec, "model": {**model, "vocab": {spelled(piece): i for piece, i in model["vocab"].items()}}}
    own = spec.get("pre_tokenizer")
    if own is None:
        return {**spec, "pre_tokenizer": _SPLIT}
    steps = own["pretokenizers"] if own["type"] == "Sequence" else [own]
    return {**spec, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, _SPLIT]}}
