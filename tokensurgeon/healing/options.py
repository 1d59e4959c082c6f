"""Check what a healing is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tokensurgeon.errors import InputError

__all__ = ["HealOptions"]


@dataclass(frozen=True, slots=True)
class HealOptions:
    """One default each.

    Attributes:
        text: Files to train on; none means what Python carries.
        steps: Updates to make; None goes by ``minutes``.
        minutes: Time to train for, evaluations included, start and writing not.
        rows: Rows of embedding and head that may change, of those that the text uses: of ``new`` tokens, or ``all``.
        lora: Rank of low-rank updates of the body, merged in at the end; None leaves the body as it is.
        batch: Pieces of text in an update, per process, each read in a pass of its own.
        piece: Bytes of a piece.
        learning_rate: Of the rows, in units of their root mean square per coordinate: 0.004 heals, 0.025 destroyed a
            model in ten minutes.
        lora_learning_rate: Of the low-rank updates.
        seed: For the order of the text.
    """

    text: tuple[str, ...] = ()
    steps: int | None = None
    minutes: float = 10.0
    rows: str = "new"
    lora: int | None = None
    batch: int = 1
    piece: int = 1024
    learning_rate: float = 0.004
    lora_learning_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        if self.rows not in ("new", "all"):
            raise InputError(f"rows={self.rows!r} must be new or all")
        for name, least in (("steps", 1), ("lora", 1), ("batch", 1), ("piece", 64)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}={value} must be at least {least}")
        for name in ("minutes", "learning_rate", "lora_learning_rate"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InputError(f"{name}={value} must be above 0")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return asdict(self) | {"text": list(self.text)}
