"""Define what a token is: the bytes it stands for, and the role it plays."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Role", "TokenKey"]


class Role(StrEnum):
    """What a control token is for. Control tokens match by role, not by their text.

    The order is the order of preference when one token plays several roles.
    """

    BOS = "bos"
    EOS = "eos"
    TURN_START = "turn_start"
    TURN_END = "turn_end"
    UNK = "unk"
    MASK = "mask"
    PAD = "pad"
    CONTROL = "control"
    """A control token whose purpose is not known: it matches by its literal text only."""


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
