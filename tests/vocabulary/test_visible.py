"""What people are shown of foreign text: everything that is there, and nothing that acts."""

from __future__ import annotations

import pytest
from tiny import byte_level
from tokenizers import AddedToken

from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.visible import quoted, shown, visible


@pytest.mark.parametrize(
    "text",
    [
        "naïve café",
        "日本語",
        "العربية",
        "עברית",
        "क्‍ष",
        "می‌خواهم",
        "👩‍👩‍👧",
        "👍🏽",
        "❤️",
        "▁the",
        "Ġthe",
        "١۝",
        "|a`b\\",
    ],
)
def test_letters_of_scripts_and_emoji_stay(text):
    assert visible(text) == text and quoted(text) == "'" + text.replace("\\", "\\\\") + "'"


@pytest.mark.parametrize(
    "character",
    ["\x00", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\u00ad", "\u061c", "\u200b", "\u200c", "\u200d",
     "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069", "\ufeff", "\ud800", "\ue000",
     "\u0378", "\U000e0041", "\u3000", "\ufe0f", "\U000e0101", "\u3164", "\u2800"],
)  # fmt: skip
def test_what_steers_reorders_or_hides_is_spelled(character):
    found = visible(f"a{character}b")
    assert found.isprintable() and found == f"a{character.encode('unicode_escape').decode()}b"
    assert quoted(character) == f"'{character.encode('unicode_escape').decode()}'"


def test_quotes_are_those_of_python():
    for text in ("a", "'", '"', "'\"", "\\", " the", "\n\n"):
        assert quoted(text) == repr(text)


def test_plain_data_is_shown_with_its_keys():
    assert shown({"\x1b": ["\n", ("\u202e", 1, None)]}) == {"\\x1b": ["\\n", ["\\u202e", 1, None]]}


def test_tokens_are_described_visibly_and_long_ones_cut():
    tokenizer = byte_level(500, specials=("<|\x1b[31m\u202e|>",))
    tokenizer.add_tokens([AddedToken("x" * 10_000, normalized=False), AddedToken("👩‍👧", normalized=False)])
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.describe(0) == "<|\\x1b[31m\\u202e|>"
    assert len(vocabulary.describe(500)) < 250 and vocabulary.describe(500).endswith("…")
    assert vocabulary.describe(501) == "'👩‍👧'"
    assert all(vocabulary.describe(i).isprintable() or i == 501 for i in range(502))
