"""Find which control token plays which role, by the tokenizer's declarations and its chat template."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.vocabulary.token import Role

__all__ = ["find_roles"]

log = logging.getLogger(__name__)

_DECLARED = {
    Role.BOS: ("bos_token", "cls_token"),
    Role.EOS: ("eos_token", "sep_token"),
    Role.UNK: ("unk_token",),
    Role.MASK: ("mask_token",),
    Role.PAD: ("pad_token",),
}

# Base models often carry turn markers but no chat template that shows them.
_KNOWN_TURNS = (
    ("<|im_start|>", "<|im_end|>"),
    ("<start_of_turn>", "<end_of_turn>"),
    ("<|start_header_id|>", "<|eot_id|>"),
    ("<|start|>", "<|end|>"),
)


def find_roles(tokenizer: Tokenizer, declared: Mapping[str, Any], chat_template: str | None) -> dict[Role, int]:
    """Map each role that the tokenizer has to a token id.

    Args:
        tokenizer: The fast tokenizer.
        declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.
        chat_template: The Jinja template, if there is one.

    Returns:
        Role to id. Several roles may share one id.
    """
    roles: dict[Role, int] = {}
    for role, names in _DECLARED.items():
        for name in names:
            token_id = _token_id(tokenizer, declared.get(name))
            if token_id is not None:
                roles.setdefault(role, token_id)
    roles.update(_turns_from_template(tokenizer, declared, chat_template))
    if Role.TURN_END not in roles:
        for start, end in _KNOWN_TURNS:
            first, last = _token_id(tokenizer, start), _token_id(tokenizer, end)
            if first is not None and last is not None:
                roles[Role.TURN_START], roles[Role.TURN_END] = first, last
                break
    return roles


def _token_id(tokenizer: Tokenizer, token: object) -> int | None:
    literal = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(literal, str):
        return None
    found: int | None = tokenizer.token_to_id(literal)
    return found


def _turns_from_template(tokenizer: Tokenizer, declared: Mapping[str, Any], template: str | None) -> dict[Role, int]:
    """Render three turns and see which control tokens stand between their contents."""
    if not template:
        return {}
    turns = [("user", "alpha"), ("assistant", "bravo"), ("user", "charlie")]
    try:
        text = _render(template, [{"role": r, "content": c} for r, c in turns], declared)
    except Exception as error:  # a template is foreign code: whatever it raises, we go without it
        log.debug("chat template not used to find turn markers: %s", error)
        return {}
    begin, stop = text.find("bravo") + len("bravo"), text.find("charlie")
    control = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    encoding = tokenizer.encode(text, add_special_tokens=False)
    between = [
        token_id
        for token_id, (first, _) in zip(encoding.ids, encoding.offsets, strict=True)
        if begin <= first < stop and token_id in control
    ]
    if not between:
        return {}
    roles = {Role.TURN_END: between[0]}
    if len(between) > 1:
        roles[Role.TURN_START] = between[1]
    return roles


def _render(template: str, messages: list[dict[str, str]], declared: Mapping[str, Any]) -> str:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now(tz=UTC).strftime(form)
    literals = {
        name: value.get("content") if isinstance(value, Mapping) else value
        for name, value in declared.items()
        if name.endswith("_token")
    }
    return environment.from_string(template).render(messages=messages, add_generation_prompt=False, **literals)
