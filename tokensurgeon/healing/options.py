"""Check what a training is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tokensurgeon.errors import InputError

__all__ = ["HealOptions", "TrainingOptions"]

_MOST_DECAY = 0.95
_MOST_STATES = 50
_TARGETS = 3
"""Counts changes of what is wanted of a student, so that no saved state is gone on from with other targets."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What every training asks; one default each.

    Attributes:
        text: Files to train on; none means what Python carries.
        steps: Updates to make; None goes by ``minutes``.
        minutes: Time to train for, evaluations and what a base writes for it included, start and writing the model not.
        lora: Rank of low-rank updates of the body, merged in at the end; 0 trains rows of tokens alone.
        batch: Pieces of text in an update, per process, each read in a pass of its own.
        piece: Bytes of a piece.
        learning_rate: Of the rows, in units of their root mean square per coordinate: 0.004 heals, 0.025 destroyed a
            model in ten minutes.
        lora_learning_rate: Of the low-rank updates.
        seed: For the order of the text.
        text_weights: One per text: the shares in which they are trained on; none takes each piece of text as often.
        schedule: ``linear`` lets the rates go down from a short warm-up to the end; ``wsd`` lets them stay, and go down
            at the end alone.
        decay: Share of the training in which ``wsd`` lets them go down.
        average: Last states whose mean is tried beside the best state, each 0.02 of the training apart; None for none.
        diloco: Inner steps of this group before it meets the others (`tokensurgeon.healing.diloco`); None trains alone.
    """

    text: tuple[str, ...] = ()
    steps: int | None = None
    minutes: float = 10.0
    lora: int = 16
    batch: int = 1
    piece: int = 1024
    learning_rate: float = 0.004
    lora_learning_rate: float = 5e-4
    seed: int = 0
    text_weights: tuple[float, ...] = ()
    schedule: str = "linear"
    decay: float = 0.2
    average: int | None = None
    diloco: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        if self.schedule not in ("linear", "wsd"):
            raise InputError(f"schedule={self.schedule!r} must be linear or wsd")
        if not 0 < self.decay <= _MOST_DECAY:
            raise InputError(f"decay={self.decay} must be above 0 and at most {_MOST_DECAY}: the rest is the warm-up")
        if self.average is not None and not 2 <= self.average <= _MOST_STATES:
            raise InputError(f"average={self.average} must be from 2 to {_MOST_STATES}: they are 0.02 of it apart")
        self._check_weights()
        if self.diloco is not None and self.average is not None:
            raise InputError("average is of one group's states, and diloco averages those of all. Give one of them")
        if self.lora is None:
            raise InputError("lora=None must be a rank; 0 trains rows of tokens alone")
        for name, least in (("steps", 1), ("lora", 0), ("batch", 1), ("piece", 64), ("diloco", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}={value} must be at least {least}")
        for name in ("minutes", "learning_rate", "lora_learning_rate"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InputError(f"{name}={value} must be above 0")

    def _check_weights(self) -> None:
        weights = self.text_weights
        if weights and len(weights) != len(self.text):
            raise InputError(f"{len(weights)} text weights and {len(self.text)} texts: give one weight for each text")
        if not all(0 < weight < float("inf") for weight in weights) or min(weights, default=1) < sum(weights) / 100:
            raise InputError(f"text weights {list(weights)} must each be above 0, and at least a hundredth of all")

    @property
    def body_rate(self) -> float:
        """Learning rate of all that is trained and no row."""
        return self.lora_learning_rate

    @property
    def lasting(self) -> dict[str, Any]:
        """What must be the same for a training to be gone on with: how long it is may change, its text has a digest."""
        plain = self.as_dict() | {"targets": _TARGETS}
        return {name: value for name, value in plain.items() if name not in ("steps", "minutes", "text")}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        plain = {"lora": self.lora or None, "text": list(self.text), "text_weights": list(self.text_weights)}
        return asdict(self) | plain


@dataclass(frozen=True, slots=True)
class HealOptions(TrainingOptions):
    """As `TrainingOptions`, and what only healing asks.

    Attributes:
        rows: Rows of embedding and head that may change, of those that the text uses: of ``new`` tokens, or ``all``.
        own_text: Share of the pieces, below 1, that the base writes itself before the training; None for a half, or for
            nothing in groups that meet, which must all have the same text.
    """

    rows: str = "new"
    own_text: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        TrainingOptions.__post_init__(self)
        if self.rows not in ("new", "all"):
            raise InputError(f"rows={self.rows!r} must be new or all")
        if self.own_text is not None and not 0 <= self.own_text < 1:
            raise InputError(f"own_text={self.own_text} must be at least 0 and below 1: the rest is given text")
        if self.own_text and self.diloco is not None:
            raise InputError(f"own_text={self.own_text}: groups must all have the same text. Leave it out, or diloco")

    @property
    def own_share(self) -> float:
        """What ``own_text`` comes to."""
        return (0.0 if self.diloco is not None else 0.5) if self.own_text is None else self.own_text

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with what ``own_text`` comes to."""
        return TrainingOptions.as_dict(self) | {"own_text": self.own_share}
