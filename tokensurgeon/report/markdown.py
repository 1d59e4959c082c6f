"""Write Markdown around names that are not ours: what they hold is shown, and is neither markup nor HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["code", "escaped", "fenced", "front_matter", "plain", "short_card"]

_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?:.+?)(?<!`)\1(?!`)")
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$]|(?<!\w)_|_(?!\w)")


def code(text: str) -> str:
    """A code span that holds a text of one line, whatever it says.

    >>> from tokensurgeon.report.markdown import code
    >>> code("a"), code("a`b")
    ('`a`', '`` a`b ``')
    """
    fence = "`" * (_longest_run(text) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text or ' '}`"


def plain(text: str) -> str:
    """Text without any markup."""
    return _MARKUP.sub(r"\\\g<0>", text)


def escaped(sentence: str) -> str:
    """A sentence in which nothing but code spans is markup."""
    found, begin = "", 0
    for span in _SPAN.finditer(sentence):
        found += plain(sentence[begin : span.start()]) + span[0]
        begin = span.end()
    return found + plain(sentence[begin:])


def fenced(lines: Sequence[str], language: str) -> list[str]:
    """A code block, as lines."""
    fence = "`" * max(3, *(_longest_run(line) + 1 for line in lines))
    return [f"{fence}{language}", *lines, fence]


def front_matter(**fields: Any) -> list[str]:
    """Lines of the YAML that the hub reads; JSON is YAML too, and has no line breaks in texts."""
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---", ""]


def short_card(title: str, text: str, library: str = "transformers", **fields: Any) -> str:
    """A model card of one paragraph.

    Args:
        title: Its heading.
        text: Sentences, with code spans by `code`.
        library: What loads the model.
        fields: Further front matter.
    """
    front = front_matter(library_name=library, **fields, tags=["tokensurgeon"])
    return "\n".join([*front, f"# {plain(title)}", "", escaped(text), ""])


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
