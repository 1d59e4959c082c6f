"""What a base's LM head sees on text: its inputs and the normalisers of its logits."""

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
