"""Markdown around foreign names, as a Markdown parser reads it."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from tokensurgeon.report.card import warnings
from tokensurgeon.report.markdown import code, escaped, fenced, front_matter, plain, short_card

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
NAMES = ("a", "a`b", "``", "`", "<script>", "[a](b)", "![a](b)", "a|b", "_a_", "*a*", "\\", "&lt;", "~~a~~", "<!-- `")


def text_of(markdown):
    """What is read, and the names of what is markup."""
    (inline,) = (t for t in MARKDOWN.parse(markdown) if t.type == "inline")
    return "".join(t.content for t in inline.children), {t.type for t in inline.children}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(name):
    read, kinds = text_of(f"x {plain(name)} y")
    assert read == f"x {name} y" and kinds <= {"text", "text_special"}
    assert text_of(f"x {code(name)} y") == (f"x {name} y", {"text", "code_inline"})
    _, kinds = text_of(escaped(f"x {name} y {code(name)} z"))
    assert kinds <= {"text", "text_special", "code_inline"}


def test_a_block_ends_where_its_lines_do():
    (block,) = MARKDOWN.parse("\n".join(fenced(["a", "```", "````", "<script>"], "yaml")))
    assert block.type == "fence" and block.content == "a\n```\n````\n<script>\n"


def test_front_matter_is_one_line_a_field():
    assert front_matter(base_model=["a\n---\nb"], tags=["x"])[1:3] == ['base_model: ["a\\n---\\nb"]', 'tags: ["x"]']
    assert short_card("a", "b").startswith(
        '---\nlibrary_name: "transformers"\ntags: ["tokensurgeon"]\n---\n\n# a\n\nb\n'
    )


def test_warnings_name_tokens_in_code():
    found = warnings({"unmapped": ["a`<script>"], "templates": [["m", "it writes <b>"]]})
    assert any("`` a`<script> ``" in sentence for sentence in found)
    assert "\\<b\\>" in escaped(next(sentence for sentence in found if "writes" in sentence))
