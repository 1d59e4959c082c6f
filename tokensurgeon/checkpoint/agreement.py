"""Compare what AutoTokenizer makes of a directory with the tokenizer.json in it, on texts of many kinds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

__all__ = ["Expected", "load"]

_TEXTS = (
    "The quick brown fox jumps over 13 lazy dogs.", "I'll say it's John's, they've DON'T and we'D",
    " leading", "  two leading", "trailing ", "\tTab\tand  two   three    four spaces", "line\nline\n\nline\n\n\n end",
    "a\r\nb\r\n\r\nc\rd", "   \n  \n\t\n", " ", "\n", "0 1 12 123 1234 12345 1234567890", "3.14159 1,000,000 $4.50 50%",
    "1e-5 0x1F 192.168.0.1 2024-01-31 ²³ ½ Ⅳ ٣٤٥ ४५", "def f(x):\n    return {'a': [1, 2, x ** 2]}  # done\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]->c; }", "<div class=\"x\">&nbsp;</div>\n\t\t<!-- note -->",
    "SELECT * FROM t WHERE a != 'b' -- c", "https://example.org/a_b?c=d&e=%20f#g me@example.org",
    "snake_case camelCase SCREAMING_CASE kebab-case HTTPServer2Go", "!!! ??? ... --- ___ === *** ~~~ ((( ))) [[[",
    "“quoted” ‘single’ «angle» — – …",
    "naïve café Zürich Ærøskøbing Łódź", "e\u0301 a\u030a n\u0303 o\u0302\u0301", "ﬁ ﬂ ① ㎏ ™ Å ｆｕｌｌ",
    "¿Dónde está? ¡Aquí!", "Größe und Maße, Straßenbahn", "İstanbul'da ığüşöç", "Việt Nam, tiếng Việt",
    "Привет, мир! Ёлка и съезд", "Καλημέρα κόσμε, ψυχή", "Բարև աշխարհ", "გამარჯობა მსოფლიო", "שלום עולם, ״ציטוט״",
    "مرحبا بالعالم، كَيْفَ", "سلام دنیا، می‌خواهم", "नमस्ते दुनिया, क्षत्रिय", "হ্যালো বিশ্ব", "ਸਤ ਸ੍ਰੀ ਅਕਾਲ", "வணக்கம் உலகம்",
    "హలో ప్రపంచం", "ഹലോ ലോകം", "สวัสดีชาวโลก", "ສະບາຍດີ", "မင်္ဂလာပါ ကမ္ဘာ", "សួស្តី​ពិភពលោក", "བཀྲ་ཤིས་བདེ་ལེགས", "ሰላም ልዑል",
    "你好，世界！今天天气很好。", "漢字とカタカナとひらがな、ﾊﾝｶｸ", "안녕하세요 세계", "한국어",
    "中文 mixed with English和数字123",
    "🙂 👩‍👩‍👧 🇩🇪 ✌🏽 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "∑ ∫ ≤ ≠ ∞ √ 𝔘𝔫𝔦 𝒳", "▁ low ▁line  ▁▁", "\u200bzero\u200d \u00a0nbsp\u3000wide\ufeff",
    "\x00\x07\x1b[0m\x7f", "aaaaaaaaaaaaaaaaaaaaaaaa", "ΑΒΓ xyz ABC ЖЗИ", "don’t ’tis o'clock 'S 'LL", "x  y\n   z \n",
)  # fmt: skip
"""Scripts, spaces, ends of lines, digits, code, apostrophes, marks, emoji, control characters."""

_AROUND = ("Hello", " two words\n", "")
"""Texts on which it is seen what is put before and behind."""
_LITERALS = 4
"""Added tokens that are looked at, from the first and from the last."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the fast tokenizer makes of texts.

    Attributes:
        inside: Text, its ids, and what these give back; without special tokens around.
        around: Text and its ids, with what the tokenizer puts around them.
    """

    inside: list[tuple[str, list[int], str]]
    around: list[tuple[str, list[int]]]

    @classmethod
    def of(cls, plain: Tokenizer) -> Self:
        """Encode and decode, by a tokenizer that neither truncates nor pads."""
        added = [token.content for _, token in sorted(plain.get_added_tokens_decoder().items())]
        chosen = dict.fromkeys(added[:_LITERALS] + added[-_LITERALS:])
        texts = [*_TEXTS, *(text for literal in chosen for text in (literal, f"a{literal}b"))]
        encoded = [plain.encode(text, add_special_tokens=False).ids for text in texts]
        decoded = [plain.decode(ids, skip_special_tokens=False) for ids in encoded]
        around = [(text, plain.encode(text).ids) for text in _AROUND]
        return cls(list(zip(texts, encoded, decoded, strict=True)), around)

    def missed(self, loaded: Any) -> str | None:
        """What a transformers tokenizer does otherwise, inside of texts; None if nothing."""
        name = type(loaded).__name__
        for text, ids, decoded in self.inside:
            if (found := list(loaded(text, add_special_tokens=False, verbose=False)["input_ids"])) != ids:
                return f"{name} makes {found[:6]} of {text[:20]!r}, and not {ids[:6]}"
            back = loaded.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if back != decoded:
                return f"{name} gives {text[:20]!r} back as {back[:24]!r}, and not as {decoded[:24]!r}"
        return None

    def framed_otherwise(self, loaded: Any) -> str | None:
        """What a transformers tokenizer puts around a text otherwise; None if nothing."""
        for text, ids in self.around:
            if (found := around(loaded, text)) != ids:
                return f"{type(loaded).__name__} makes {found[:6]} of {text!r} with special tokens, and not {ids[:6]}"
        return None

    def framed_like(self, one: Any, other: Any) -> bool:
        """Whether two transformers tokenizers put the same around a text."""
        return all(around(one, text) == around(other, text) for text, _ in self.around)


def around(loaded: Any, text: str) -> list[int]:
    """Ids of a text with what is put around it."""
    return list(loaded(text, verbose=False)["input_ids"])


def load(directory: Path) -> Any:
    """A directory's tokenizer as users load it, without code of its own; raises whatever transformers raises."""
    from transformers import AutoTokenizer

    with _silent():
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep warnings about files that are only tried out from the terminal."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        theirs.set_verbosity(level)
