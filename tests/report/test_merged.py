"""The card and page of a merge, whose models may be called anything."""

from __future__ import annotations

from tokensurgeon.report.merged import merge_card, merge_page
from tokensurgeon.vocabulary.visible import shown

NAME = "m\x1b[31m\u202e`<script>[a](b)|\n---\n# x"
MODEL = {"name": NAME, "base": True, "transplant": None, "rows": {"own": 1, "made": 0, "silent": 0}}
CONTENT = {
    "versions": {"mergekit": "0", "tokensurgeon": "0"}, "not_run": None, "removed_settings": [],
    "verified": {"tokenizer": NAME},
    "merge": {
        "models": [MODEL], "rows": {}, "left_out": {NAME: 3}, "title": "linear", "method": "linear", "reference": "",
        "tokenizer": NAME, "embeddings": "base", "seed": 0, "recipe": ["models:", f"- model: {NAME}", "```", "<b>"],
    },
}  # fmt: skip


def test_names_are_shown_and_are_no_markup():
    card, page = merge_card(shown(CONTENT)), merge_page(shown(CONTENT))
    assert all(line.isprintable() for text in (card, page) for line in text.split("\n"))
    lines = card.split("\n")
    assert lines.count("---") == 2 and "# x" not in lines and "````yaml" in lines and lines.count("````") == 1
    assert "\\`\\<script\\>\\[a\\](b)\\|" in card and "<script" not in page and "- model: m" in page
