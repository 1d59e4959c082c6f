"""Render a short conversation with a chat template, and cut the tokens between what is said into segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.vocabulary.rendering import Rendering, render
from tokensurgeon.vocabulary.token import literal_of

__all__ = ["Conversation", "render_conversation"]

_SYSTEM, _USER, _ANSWER, _NEXT = "sierra", "alpha", "bravo", "charlie"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Ids that a chat template puts around what is said.

    Attributes:
        opening: Before the first user's text, without a system turn.
        answer: Between that text and the assistant's answer.
        next: Between the answer and the user's next text.
        system: Before a system's text; empty where the template takes none.
    """

    opening: tuple[int, ...]
    answer: tuple[int, ...]
    next: tuple[int, ...]
    system: tuple[int, ...] = ()


def render_conversation(
    tokenizer: Tokenizer, declared: Mapping[str, Any], template: str | None
) -> tuple[Conversation | None, str]:
    """A user's text, an answer, and the user's next text; None where the template shows no such conversation.

    Args:
        tokenizer: The fast tokenizer.
        declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.
        template: The Jinja template, if there is one.

    Returns:
        The conversation, and what is wrong with the template. It is no fault to refuse such messages, or a system's.
    """
    if not template:
        return None, ""
    if not isinstance(template, str):  # settings may hold whatever JSON can
        return None, "it is no text"
    spelled = {name: literal_of(value) for name, value in declared.items() if name.endswith("_token")}
    literals = tuple((name, literal) for name, literal in spelled.items() if literal is not None)  # no text "None"
    said = (("user", _USER), ("assistant", _ANSWER), ("user", _NEXT))
    with_system = (("system", _SYSTEM), *said)
    rendered = render(template, said, literals)
    turns = _between(tokenizer, rendered, said)
    if turns is None:
        return None, rendered.problem
    opening, answer, following = turns
    rendered = render(template, with_system, literals)
    if rendered.stopped:
        return None, rendered.problem
    opened = _between(tokenizer, rendered, with_system)
    return Conversation(opening, answer, following, opened[0] if opened else ()), ""


def _between(
    tokenizer: Tokenizer, rendered: Rendering, said: tuple[tuple[str, str], ...]
) -> list[tuple[int, ...]] | None:
    """The ids before each text, as far as they are no part of one."""
    text = rendered.text
    if text is None:
        return None
    encoding = tokenizer.encode(text, add_special_tokens=False)
    spans = list(zip(encoding.ids, encoding.offsets, strict=True))
    found, begin = [], 0
    for _, content in said:
        stop = text.find(content, begin)
        if stop < 0:
            return None
        found.append(tuple(i for i, (first, last) in spans if begin <= first and last <= stop))
        begin = stop + len(content)
    return found
