"""Check what a draft is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tokensurgeon.errors import InputError

__all__ = ["MakeDraftOptions"]


@dataclass(frozen=True, slots=True)
class MakeDraftOptions:
    """One default each.

    Attributes:
        method: How new tokens are made, as for a transplant.
        text: Files that prompts are taken from; none means what Python carries.
        minutes: Time for writing and learning; 0 leaves the transplant as it is.
        lora: Rank of low-rank updates of the body, merged in at the end; 0 trains rows of tokens alone.
        prompts: How many prompts the draft is measured on.
        prompt_bytes: Bytes of text in each prompt.
        new_tokens: Tokens that the target writes after each.
        batch: Texts that are learnt from at once; four times as many are written at once.
        draft_tokens: The longest draft that is thought of.
        learning_rate: Of the rows, in units of their root mean square per coordinate.
        lora_learning_rate: Of the low-rank updates.
        device: Where both models run.
        seed: Of sampling and of the order of texts.
    """

    method: str = "ridge"
    text: tuple[str, ...] = ()
    minutes: float = 0.0
    lora: int = 16
    prompts: int = 16
    prompt_bytes: int = 512
    new_tokens: int = 64
    batch: int = 8
    draft_tokens: int = 8
    learning_rate: float = 0.004
    lora_learning_rate: float = 1e-3
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        least = {"minutes": 0, "lora": 0, "prompts": 1, "prompt_bytes": 16, "new_tokens": 2, "batch": 1}
        for name, bound in (least | {"draft_tokens": 1}).items():
            if not bound <= (value := getattr(self, name)) < float("inf"):
                raise InputError(f"{name}={value} must be at least {bound}, and finite. Give another {name}")
        for name in ("learning_rate", "lora_learning_rate"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise InputError(f"{name}={value} must be above 0. Give another {name}")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return asdict(self) | {"text": list(self.text)}
