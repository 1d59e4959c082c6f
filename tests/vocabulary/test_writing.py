"""What a stretch of text is, by its bytes."""

from __future__ import annotations

import pytest

from tokensurgeon.vocabulary.writing import writing_of


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("words", [" the", "self.", "naïve", "ﬁ", "Ünïcode\n"]),
        ("numbers", ["7", " 1999", "x2", "٣"]),
        ("white space", [" ", "\n\n    ", "\t", "\u00a0", ""]),
        ("punctuation", ["):\n", "---", "→", "🙂", '"""']),
        ("other scripts", ["日本", " да", "xж", "ا"]),
    ],
)
def test_every_text_is_of_one_kind(kind, texts):
    assert {text: str(writing_of(text.encode())) for text in texts} == dict.fromkeys(texts, kind)


def test_part_of_a_character_is_another_script():
    assert writing_of("日".encode()[:2]) == writing_of("日".encode()[1:]) == "other scripts"
