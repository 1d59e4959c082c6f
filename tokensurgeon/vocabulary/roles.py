"""Find which control tokens play which role: by the chat template, the tokenizer's declarations, and known literals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.vocabulary.conversation import Conversation, render_conversation
from tokensurgeon.vocabulary.markers import FAMILIES, KNOWN, MARKER
from tokensurgeon.vocabulary.token import NEVER_PREDICTED, STRUCTURE, Role, literal_of

__all__ = ["Roles", "find_roles"]

_DECLARED = {
    Role.BOS: ("bos_token", "cls_token"),
    Role.EOS: ("eos_token", "sep_token"),
    Role.UNK: ("unk_token",),
    Role.MASK: ("mask_token",),
    Role.PAD: ("pad_token",),
}
_ONE = frozenset({Role.BOS, Role.EOS, Role.UNK, Role.MASK})
"""Where one is declared, no other is looked for, unless that one is a turn marker."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What a tokenizer's control tokens are for.

    Attributes:
        ids: Role to the ids that play it, the first of them the one to stand for it. Several roles may share an id.
        openers: USER, ASSISTANT and SYSTEM to all ids that open such a turn, text included.
        starts: Control tokens that a conversation may begin with.
        prefix: The token that the tokenizer puts before every text, if it does so.
        template_problem: Why the chat template was no help; empty where it was, or where it takes no such messages.
    """

    ids: Mapping[Role, tuple[int, ...]]
    openers: Mapping[Role, tuple[int, ...]] = field(default_factory=dict)
    starts: tuple[int, ...] = ()
    prefix: int | None = None
    template_problem: str = ""
    played: Mapping[int, tuple[Role, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Know the roles of every id, in order of preference."""
        played: dict[int, list[Role]] = {}
        for role in Role:
            for token_id in dict.fromkeys(self.ids.get(role, ())):
                played.setdefault(token_id, []).append(role)
        object.__setattr__(self, "played", {i: tuple(roles) for i, roles in played.items()})

    def of(self, *roles: Role) -> frozenset[int]:
        """Ids that play one of these roles; of any, if none is given."""
        return frozenset(i for role in roles or self.ids for i in self.ids.get(role, ()))


def find_roles(tokenizer: Tokenizer, declared: Mapping[str, Any], chat_template: str | None) -> Roles:
    """Say what each control token is for.

    Args:
        tokenizer: The fast tokenizer.
        declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.
        chat_template: The Jinja template, if there is one.
    """
    found: dict[Role, list[int]] = {}
    for role, names in _DECLARED.items():
        for name in names:
            token_id = _token_id(tokenizer, declared.get(name))
            if token_id is not None:
                found.setdefault(role, []).append(token_id)
    added = tokenizer.get_added_tokens_decoder()
    special = {i for i, token in added.items() if token.special}
    known: dict[Role, list[int]] = {}
    for literal, role in KNOWN.items():
        token_id = _token_id(tokenizer, literal)
        sure = special if role in STRUCTURE | NEVER_PREDICTED else added  # Gemma's ``<s>`` is a tag of HTML
        if token_id is not None and (token_id in sure or "|" in literal or "_" in literal):
            known.setdefault(role, []).append(token_id)

    conversation, problem = render_conversation(tokenizer, declared, chat_template)
    turns: dict[Role, list[int]] = {}
    openers: dict[Role, tuple[int, ...]] = {}
    starts: list[int] = []
    if conversation is not None:
        marked = {i for part in _parts(conversation) for i in part if i in special or _is_marker(tokenizer, i)}
        ends = {*found.get(Role.EOS, ()), *known.get(Role.EOS, ())}
        begins = {*found.get(Role.BOS, ()), *known.get(Role.BOS, ())}
        turns = _structure(conversation, marked, begins, ends)
        openers = _openers(conversation, marked, begins, turns)
        starts = [i for part in (conversation.opening, conversation.system) for i in part[:1] if i in marked]
    if not turns:
        turns, openers = _by_name(tokenizer)
        starts = starts or [turns[role][0] for role in (Role.TURN_START, Role.USER) if role in turns][:1]
    found |= {role: [*ids] for role, ids in turns.items()}
    of_turns = {*(i for ids in turns.values() for i in ids), *known.get(Role.TURN_END, ())}
    for role, ids in known.items():
        if role is Role.TURN_END and not turns:
            continue
        if role not in _ONE:
            found[role] = [*found.get(role, []), *ids]
        elif all(i in of_turns for i in found.get(role, ())):
            found[role] = [*found.get(role, []), ids[0]]
    for role in (Role.BOS, Role.EOS):  # the end of a document before what a config calls so and is the end of a turn
        found[role] = sorted(found.get(role, []), key=lambda i: i in of_turns)
    ordered = {role: tuple(dict.fromkeys(found[role])) for role in Role if found.get(role)}
    return Roles(ordered, openers, tuple(dict.fromkeys(starts)), _prefix(tokenizer), problem)


def _token_id(tokenizer: Tokenizer, token: object) -> int | None:
    literal = literal_of(token)
    found: int | None = None if literal is None else tokenizer.token_to_id(literal)
    return found


def _is_marker(tokenizer: Tokenizer, token_id: int) -> bool:
    piece = tokenizer.id_to_token(token_id)
    return piece is not None and MARKER.fullmatch(piece) is not None and not piece.startswith("<0x")


def _parts(conversation: Conversation) -> Iterable[tuple[int, ...]]:
    return conversation.opening, conversation.answer, conversation.next, conversation.system


def _structure(conversation: Conversation, marked: set[int], begins: set[int], ends: set[int]) -> dict[Role, list[int]]:
    """What stands after both a user's and an assistant's text ends a turn; what opens both turns alike, or apart."""
    opening, answer, after, system = (
        [i for i in part if i in marked]
        for part in (conversation.opening, conversation.answer, conversation.next, conversation.system)
    )
    found: dict[Role, list[int]] = {}
    if answer and after and answer[0] == after[0]:
        found[Role.TURN_END] = [answer.pop(0)]
        after.pop(0)
    else:  # the first user's turn opens as the next one does, and has no end before it
        opener = _common_end(opening, after)
        end, after = (after[: -len(opener)], opener) if opener else (after[:1], after[1:])
        if not opener and end and not after and end[0] not in ends:
            end, after = [], end
        if end:
            found[Role.TURN_END] = end[:1]
            if len(answer) > 1 and not {*answer} & {*after}:
                found[Role.TURN_END] += [answer.pop(0)]
    if answer and after and answer[0] == after[0]:
        found[Role.TURN_START] = answer[:1]
        if len(answer) > 1 < len(after) and answer[-1] == after[-1] != answer[0]:
            found[Role.HEADER_END] = answer[-1:]
    of_answer = [i for i in answer if i not in after]
    of_user = [i for i in after if i not in answer and i not in begins]  # some begin every turn with BOS
    if of_answer and of_user:
        found[Role.ASSISTANT], found[Role.USER] = of_answer[:1], of_user[:1]
    known = {*opening, *answer, *after, *(i for ids in found.values() for i in ids)}
    if of_system := [i for i in system if i not in known]:
        found[Role.SYSTEM] = of_system[:1]
    return found


def _common_end(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The longest run of ids with which both end."""
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return list(other[len(other) - length :])


def _openers(
    conversation: Conversation, marked: set[int], begins: set[int], turns: Mapping[Role, Sequence[int]]
) -> dict[Role, tuple[int, ...]]:
    """All that opens a turn: from its first marker on, or the text where it has none."""
    ends = turns.get(Role.TURN_END, ())
    kept = begins - {*turns.get(Role.TURN_START, ())}
    found = {}
    for role, part in (
        (Role.USER, conversation.next),
        (Role.ASSISTANT, conversation.answer),
        (Role.SYSTEM, conversation.system),
    ):
        last = max((n for n, i in enumerate(part) if i in ends), default=-1)
        ids = part[last + 1 :]
        ids = tuple(i for i in ids if i not in kept)
        first = next((n for n, i in enumerate(ids) if i in marked), 0)
        if ids[first:]:
            found[role] = ids[first:]
    if Role.SYSTEM in found:  # some templates say more there, such as the date
        found[Role.SYSTEM] = found[Role.SYSTEM][: len(found.get(Role.USER, ())) or None]
    return found


def _by_name(tokenizer: Tokenizer) -> tuple[dict[Role, list[int]], dict[Role, tuple[int, ...]]]:
    """Turn markers by their literals, where no template shows them."""
    for family in FAMILIES:
        ids = {literal: _token_id(tokenizer, literal) for literal in family.roles}
        turns = {family.roles[literal]: [i] for literal, i in ids.items() if i is not None}
        if len(turns) < len(ids):
            continue
        openers = {
            role: _spelled(tokenizer, family.opener.format(name), ids)
            for role, name in zip((Role.USER, Role.ASSISTANT), family.names, strict=True)
            if family.opener
        }
        return turns, openers
    return {}, {}


def _spelled(tokenizer: Tokenizer, text: str, markers: Mapping[str, int | None]) -> tuple[int, ...]:
    """Ids of a text with markers, also where the tokenizer does not find them in text."""
    found: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, markers))})", text):
        marker = markers.get(part)
        found += tokenizer.encode(part, add_special_tokens=False).ids if marker is None else [marker]
    return tuple(found)


def _prefix(tokenizer: Tokenizer) -> int | None:
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    ids = tokenizer.encode("a").ids
    return ids[0] if len(ids) > len(bare) and ids[:1] != bare[:1] else None
