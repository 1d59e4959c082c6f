"""Strings of many kinds, made from a few sentences: what tokenizers are compared on."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping

__all__ = ["strings"]

_BETWEEN = (" ", " ", " ", "  ", "", "\n", "\n\n", "\t", "\r\n", ", ", "-", "_", "/", "\u00a0", "\u200b", "\u3000")
_AROUND = ("", "", " ", "   ", "\n", "\t", "(", "«", "'", '"', "…", "?!", ".\n\n")
_INSERTED = (
    "2024", "1,234.56", "007", "3²½", "٣٤٥", "१२३", "12:30", "-5e-10",
    "🙂", "👩‍👩‍👧‍👦", "🇫🇮", "👍🏽", "C'est", "don't", "they'LL", "naïve",
    "ﬀ", "Ａｂｃ", "µ≠∞", "http://a.example/?q=1&r=%20", "def f(x):\n    return x",
    '{"a": [1, null]}', "<b>", "</s>", "x_1+=--y;",
    "\ufeff", "\x7f", "    ", "CamelCaseWord", "ALLCAPS", "--", "==>", "```",
)  # fmt: skip
_CHANGES = (str, str, str, str.upper, str.lower, str.title)


def strings(sentences: Mapping[str, str], count: int, seed: int = 0) -> list[str]:
    """The sentences, and then their words, changed, joined and mixed with other things; the same every time.

    Args:
        sentences: By script.
        count: How many strings; every script has as many, give or take one.
        seed: Of the draws.

    Example:
        >>> strings({"Latin": "All human beings", "Greek": "Όλοι οι άνθρωποι"}, 2)
        ['All human beings', 'Όλοι οι άνθρωποι']
    """
    draw = random.Random(seed)
    every = list(sentences.values())
    found = every[:count]
    while len(found) < count:
        text = _changed(every[len(found) % len(every)], draw)
        if text not in found:
            found.append(text)
    return found


def _changed(sentence: str, draw: random.Random) -> str:
    words = sentence.split() if " " in sentence else [sentence[i : i + 4] for i in range(0, len(sentence), 4)]
    start = draw.randrange(len(words))
    words = words[start : start + draw.randint(1, 8)]
    for _ in range(draw.choice((0, 1, 1, 2))):
        words.insert(draw.randint(0, len(words)), draw.choice(_INSERTED))
    joined = draw.choice(_AROUND) + words[0]
    for word in words[1:]:
        joined += draw.choice(_BETWEEN) + word
    form = draw.choice(("NFC", "NFC", "NFC", "NFD"))
    return unicodedata.normalize(form, draw.choice(_CHANGES)(joined + draw.choice(_AROUND)))
