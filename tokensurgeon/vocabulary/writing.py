"""Tell by its bytes alone what a stretch of text is: a word, a number, white space, punctuation, another script."""

from __future__ import annotations

import unicodedata
from enum import StrEnum

__all__ = ["Writing", "writing_of"]


class Writing(StrEnum):
    """What a stretch of text is, for people."""

    WORDS = "words"
    """Letters of the Latin script and no digit, such as `` transplant``, ``self.`` and ``naïve``."""
    NUMBERS = "numbers"
    """A digit of any script is in it."""
    SPACE = "white space"
    """Nothing else: spaces, line breaks, tabs."""
    PUNCTUATION = "punctuation"
    """Neither letters nor digits, such as ``):`` with the line break behind it, and symbols."""
    OTHER = "other scripts"
    """Letters that are not Latin, and parts of a character."""


def writing_of(data: bytes) -> Writing:
    """What a stretch of text is.

    Args:
        data: UTF-8; parts of a character count as another script.

    Example:
        >>> [str(writing_of(data)) for data in (b" the", b"   ", b" 42", "да".encode())]
        ['words', 'white space', 'numbers', 'other scripts']
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return Writing.OTHER
    if any(c.isdigit() for c in text):
        return Writing.NUMBERS
    letters = [c for c in text if c.isalpha()]
    if letters:
        return Writing.WORDS if all(map(_is_latin, letters)) else Writing.OTHER
    return Writing.PUNCTUATION if text.strip() else Writing.SPACE


def _is_latin(letter: str) -> bool:
    return letter.isascii() or "LATIN" in unicodedata.name(letter, "")
