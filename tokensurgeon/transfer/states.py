"""Hold what a base's LM head sees on text: its inputs and the normalisers of its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["HeadStates"]


@dataclass(frozen=True, slots=True)
class HeadStates:
    """What the LM head sees on text.

    Attributes:
        states: (n, dim) float32 inputs of the head, scaled so that ``states @ head.T`` are the
            model's logits (some models scale them afterwards).
        log_normaliser: (n,) float32 logsumexp of the logits.
    """

    states: torch.Tensor
    log_normaliser: torch.Tensor

    def with_constant(self) -> HeadStates:
        """The states with a last coordinate of 1, to go with a head whose last column is its bias."""
        return HeadStates(torch.nn.functional.pad(self.states, (0, 1), value=1.0), self.log_normaliser)
