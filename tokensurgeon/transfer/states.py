"""Hold what a base's LM head sees on text: its inputs and the normalisers of its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tokensurgeon.transfer.products import coarse_product

__all__ = ["HeadStates", "with_bias"]

_STATES, _CHUNK = 512, 4096


@dataclass(frozen=True, slots=True)
class HeadStates:
    """What the LM head sees on text.

    Attributes:
        states: (n, dim) float32 inputs of the head, scaled so that ``states @ head.T`` are the
            model's logits (some models scale them afterwards).
        log_normaliser: (m,) float32 logsumexp of the logits of the first m states; the others say what all have in
            common.
    """

    states: torch.Tensor
    log_normaliser: torch.Tensor

    @property
    def normalised(self) -> torch.Tensor:
        """(m, dim) the states whose normaliser is known."""
        return self.states[: len(self.log_normaliser)]

    def with_constant(self) -> HeadStates:
        """The states with a last coordinate of 1, to go with a head whose last column is its bias."""
        return HeadStates(torch.nn.functional.pad(self.states, (0, 1), value=1.0), self.log_normaliser)

    def mean_probability(self, rows: torch.Tensor) -> torch.Tensor:
        """(n,) float32 mean over some states of the probability of each of (n, dim) rows, were it the only new one."""
        step = max(1, len(self.log_normaliser) // _STATES)
        states, normaliser = self.normalised[::step], self.log_normaliser[::step, None]
        found = [
            coarse_product(states, some).sub_(normaliser).sigmoid_().mean(dim=0) for some in torch.split(rows, _CHUNK)
        ]
        return torch.cat(found) if found else torch.zeros(0)


def with_bias(head: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(n, dim) head rows with their (n,) biases as one more coordinate, to go with `HeadStates.with_constant`."""
    return head if bias is None else torch.cat([head, bias[:, None]], dim=1)
