"""``auto``: not a method by itself, but the wish that one be chosen (`tokensurgeon.surgery.auto`)."""

from __future__ import annotations

from dataclasses import dataclass

from tokensurgeon.errors import InputError
from tokensurgeon.transfer.protocol import DonorSpace, Fitted, Resources

__all__ = ["Auto"]


@dataclass(frozen=True, slots=True)
class Auto:
    """Whatever loses least on some text.

    Attributes:
        minutes: Candidates whose rows would take longer are left out. The trials come on top.
    """

    minutes: float = 10.0

    def fit(self, _space: DonorSpace, _: Resources) -> Fitted:
        """Refuse: what `tokensurgeon.surgery.auto.choose` finds is fitted instead."""
        raise InputError("method auto has to be chosen for a pair of models first")
