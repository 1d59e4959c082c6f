"""Define what a token is: the bytes it stands for, and the role it plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["MOST_IDS", "NEVER_PREDICTED", "STRUCTURE", "TURNS", "Role", "TokenKey", "literal_of"]


MOST_IDS = 1 << 22
"""Ids of a vocabulary. The largest that is known, XLM-V's, has 0.9 million; tables by id are made for all of them."""


class Role(StrEnum):
    """What a control token is for.

    The order is the order of preference when one token plays several roles: what a conversation is made of comes
    before the ends of a document.
    """

    TURN_START = "turn_start"
    TURN_END = "turn_end"
    USER = "user"
    """Opens a user's turn, alone or after TURN_START."""
    ASSISTANT = "assistant"
    SYSTEM = "system"
    HEADER_END = "header_end"
    """Stands between the name of who speaks and what is said."""
    BOS = "bos"
    EOS = "eos"
    """The end of a document."""
    UNK = "unk"
    MASK = "mask"
    PAD = "pad"
    THINK_START = "think_start"
    THINK_END = "think_end"
    TOOLS_START = "tools_start"
    TOOLS_END = "tools_end"
    TOOL_CALLS_START = "tool_calls_start"
    TOOL_CALLS_END = "tool_calls_end"
    TOOL_CALL_START = "tool_call_start"
    TOOL_CALL_END = "tool_call_end"
    TOOL_OUTPUT_START = "tool_output_start"
    TOOL_OUTPUT_END = "tool_output_end"
    FIM_PREFIX = "fim_prefix"
    FIM_SUFFIX = "fim_suffix"
    FIM_MIDDLE = "fim_middle"
    FIM_PAD = "fim_pad"
    REPOSITORY = "repository"
    FILE = "file"
    CONTROL = "control"
    """A control token whose purpose is not known: it matches by its literal text only."""


TURNS = frozenset({Role.TURN_START, Role.TURN_END, Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.HEADER_END})
"""What a conversation is made of."""
STRUCTURE = TURNS | {Role.BOS, Role.EOS}
NEVER_PREDICTED = frozenset({Role.UNK, Role.MASK, Role.PAD})


def literal_of(token: object) -> str | None:
    """The text of a token as settings hold it: a string, or a table with ``content``; None for anything else."""
    literal = token.get("content") if isinstance(token, Mapping) else token
    return literal if isinstance(literal, str) else None


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Identity of a token across vocabularies.

    Attributes:
        data: The bytes that the token stands for in text; a control token's literal text.
        role: None for text, otherwise the control token's (first) role. The text ``<s>`` and
            the control token ``<s>`` are therefore different keys.
    """

    data: bytes
    role: Role | None = None

    @property
    def is_text(self) -> bool:
        """Whether the token stands for text rather than for a control function."""
        return self.role is None
