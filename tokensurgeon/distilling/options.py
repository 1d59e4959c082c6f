"""Check what a distillation is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokensurgeon.errors import InputError
from tokensurgeon.healing.options import TrainingOptions

__all__ = ["DistilOptions"]

_NOT_ON_POLICY = ("learning_rate", "average", "teacher_weight", "top", "whole", "body_learning_rate")


@dataclass(frozen=True, slots=True)
class DistilOptions(TrainingOptions):
    """As `TrainingOptions`, and what only distilling asks.

    Attributes:
        teacher_weight: Share of the loss that is the divergence from the teacher; the rest is that of the text's own
            next token, which within the teacher's share also teaches what the teacher leaves open. 0 trains on the
            text alone.
        top: The teacher's likeliest tokens that are kept at each position.
        whole: Train the body itself, instead of low-rank updates of it.
        body_learning_rate: Of the body where it is trained itself.
        on_policy: Share of the pieces that the student goes on with itself, for the teacher to read; None reads text.
    """

    teacher_weight: float = 0.5
    top: int = 64
    whole: bool = False
    body_learning_rate: float = 5e-5
    on_policy: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        TrainingOptions.__post_init__(self)
        if not 0 <= self.teacher_weight <= 1:
            raise InputError(f"teacher_weight={self.teacher_weight} must be from 0 (text alone) to 1 (teacher alone)")
        if self.top < 1:
            raise InputError(f"top={self.top} must be at least 1")
        if not 0 < self.body_learning_rate < float("inf"):
            raise InputError(f"body_learning_rate={self.body_learning_rate} must be above 0")
        if self.whole and self.lora not in (0, TrainingOptions().lora):
            raise InputError(f"lora={self.lora} and whole are two ways to train the body. Give one of them")
        if self.diloco is not None:
            raise InputError("groups that come and go (diloco) are for healing only")
        if self.on_policy is not None:
            self._check_on_policy(self.on_policy)

    def _check_on_policy(self, share: float) -> None:
        if not 0 < share <= 1:
            raise InputError(f"on_policy={share} must be above 0 and at most 1, the share in which the student writes")
        other = DistilOptions()
        for name in _NOT_ON_POLICY:
            if getattr(self, name) != getattr(other, name):
                raise InputError(
                    f"{name}={getattr(self, name)} is not for on_policy: TRL trains low-rank updates of the body, on "
                    "whole distributions of the teacher. Leave it out"
                )
        if not self.lora:
            raise InputError("lora=0 leaves nothing to train: on_policy trains no rows. Give a rank of at least 1")

    @property
    def rank(self) -> int:
        """Of low-rank updates; 0 where the body is trained itself or not at all."""
        return 0 if self.whole else self.lora

    @property
    def body_rate(self) -> float:
        """Learning rate of all that is trained and no row."""
        return self.body_learning_rate if self.whole else self.lora_learning_rate

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest, which knows a training by its rank and rows."""
        plain = TrainingOptions.as_dict(self) | {"lora": self.rank or None, "rows": "all"}
        unused = () if self.on_policy is None else ("rows", *_NOT_ON_POLICY)
        return {name: value for name, value in plain.items() if name not in unused}
