"""Spell what steers a terminal, reorders a line or is not seen, so that foreign text can be shown to people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["quoted", "shown", "visible"]

_JOINERS = "\u200c\u200d"
"""Between letters of many scripts, and between the parts of an emoji, they are a matter of spelling."""
_SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
"""Unicode counts these signs of Arabic and Syriac among what formats text, and they are seen."""

_SELECTORS = r"\ufe00-\ufe0f\U000e0100-\U000e01ef"
_UNSEEN = re.compile(f"[{_SELECTORS}\u115f\u1160\u3164\uffa0\u2800]")
"""Unicode counts them among letters and marks, and nothing is seen of them; selectors say how an emoji looks."""


def visible(text: str) -> str:
    r"""One line of text, with control, format, unassigned and unseen characters, surrogates and odd spaces spelled.

    >>> from tokensurgeon.vocabulary.visible import visible
    >>> visible("a\x1b[31mb\u202ec\n")
    'a\\x1b[31mb\\u202ec\\n'
    """
    if text.isprintable() and not _UNSEEN.search(text):
        return text
    return "".join(
        character if _is_seen(text, i) else character.encode("unicode_escape").decode()
        for i, character in enumerate(text)
    )


def _is_seen(text: str, i: int) -> bool:
    """Whether a character is printed, or is part of what stands around it."""
    if text[i].isprintable():
        before = text[i - 1 : i]
        looks = before.isprintable() and not before.isascii() and not _UNSEEN.match(before)
        keycap = text[i + 1 : i + 2] == "\u20e3"
        return not _UNSEEN.match(text[i]) or (re.match(f"[{_SELECTORS}]", text[i]) is not None and (looks or keycap))
    if text[i] in _JOINERS:
        around = text[max(0, i - 1) : i] + text[i + 1 : i + 2]
        return len(around) == 2 and around.isprintable() and not any(c.isascii() for c in around)
    return text[i] in _SIGNS


def quoted(text: str) -> str:
    """Text in quotes, as `repr` has it, but that joiners within words and emoji stay."""
    quote = '"' if "'" in text and '"' not in text else "'"
    inner = text.replace("\\", "\\\\")
    return quote + visible(inner if quote == '"' else inner.replace("'", "\\'")) + quote


def shown(data: Any) -> Any:
    """Plain data with every text in it visible, keys included."""
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, Mapping):
        return {shown(key): shown(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [shown(value) for value in data]
    return data
