"""Average the last states of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["APART", "LastStates"]

APART = 0.02
"""Of the training lies between two states that are averaged."""


class LastStates:
    """The sum of states that are evenly apart, the last of which is the end.

    Attributes:
        taken: How many are in it.
    """

    def __init__(self, count: int) -> None:
        """Average ``count`` states; 0 for none."""
        self.count, self.taken = count, 0
        self._sums: dict[str, torch.Tensor] = {}

    def see(self, share: float, parameters: Mapping[str, torch.Tensor]) -> None:
        """Take the state behind an update, if it is one of them; for several where updates are far apart.

        Args:
            share: Of the training that is done.
            parameters: By name.
        """
        if share < 1 - (self.count - 1) * APART - 1e-9:  # what was taken before it went on for longer is not the end
            self.taken, self._sums = 0, {}
        due = sum(share >= 1 - left * APART - 1e-9 for left in range(self.count - self.taken))
        if not due:
            return
        for name, parameter in parameters.items():
            state = due * parameter.detach().float()
            self._sums[name] = self._sums[name].to(state.device) + state if name in self._sums else state
        self.taken += due

    def mean(self) -> dict[str, torch.Tensor]:
        """The mean of what was taken, by name."""
        return {name: total / self.taken for name, total in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """To go on from."""
        return {"taken": self.taken, "sums": self._sums}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on."""
        self.taken, self._sums = state["taken"], dict(state["sums"])
