"""Render a short conversation with a chat template, and cut the tokens between what is said into segments."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.vocabulary.token import literal_of

__all__ = ["Conversation", "render_conversation"]

log = logging.getLogger(__name__)

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


def render_conversation(tokenizer: Tokenizer, declared: Mapping[str, Any], template: str | None) -> Conversation | None:
    """A user's text, an answer, and the user's next text; None where the template cannot be used.

    Args:
        tokenizer: The fast tokenizer.
        declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.
        template: The Jinja template, if there is one.
    """
    if not template:
        return None
    said = [("user", _USER), ("assistant", _ANSWER), ("user", _NEXT)]
    turns = _between(tokenizer, declared, template, said)
    if turns is None:
        return None
    opened = _between(tokenizer, declared, template, [("system", _SYSTEM), *said])
    opening, answer, following = turns
    return Conversation(opening, answer, following, opened[0] if opened else ())


def _between(
    tokenizer: Tokenizer, declared: Mapping[str, Any], template: str, said: list[tuple[str, str]]
) -> list[tuple[int, ...]] | None:
    """The ids before each text, as far as they are no part of one."""
    try:
        text = _render(template, [{"role": role, "content": content} for role, content in said], declared)
    except Exception as error:  # a template is foreign code: whatever it raises, we go without it
        log.debug("chat template not used to find turn markers: %s", error)
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


@cache
def _generation() -> type:
    """The tag with which templates mark what an assistant says: what is between is rendered as it is."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


def _render(template: str, messages: list[dict[str, str]], declared: Mapping[str, Any]) -> str:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation()]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now(tz=UTC).strftime(form)
    spelled = {name: literal_of(value) for name, value in declared.items() if name.endswith("_token")}
    literals = {name: literal for name, literal in spelled.items() if literal is not None}  # null is no text "None"
    return environment.from_string(template).render(messages=messages, add_generation_prompt=False, **literals)
