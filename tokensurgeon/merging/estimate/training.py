"""Train a merge's coefficients by Adam, on pieces of every model's text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.estimate.pieces import rounds

__all__ = ["TrainedCoefficients", "Training", "descend", "refuse_training"]


class Training(Protocol):
    """Options of one."""

    @property
    def steps(self) -> int:
        """Updates."""

    @property
    def learning_rate(self) -> float:
        """Of Adam; it falls to zero over the steps."""

    @property
    def seed(self) -> int:
        """For the order of the pieces."""


@dataclass(frozen=True, slots=True)
class TrainedCoefficients:
    """Trained coefficients.

    Attributes:
        coefficients: By tensor: (models, columns) float32 of DAM, (models,) of other methods.
        losses: Divergence of every step, summed over models, nats per token at the temperature.
    """

    coefficients: dict[str, torch.Tensor]
    losses: list[float]


def refuse_training(steps: int, **above_zero: float) -> None:
    """Refuse what nothing can be trained with.

    Args:
        steps: Updates.
        above_zero: Options that must be, by name.

    Raises:
        InputError: For steps below 1, or one of the others that is not above 0.
    """
    if steps < 1:
        raise InputError(f"--steps is {steps}; it must be at least 1")
    for name, value in above_zero.items():
        if not value > 0:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be above 0")


def descend(
    coefficients: Iterable[torch.Tensor],
    options: Training,
    data: Sequence[Sequence[torch.Tensor]],
    loss_of: Callable[[Sequence[torch.Tensor]], tuple[torch.Tensor, float]],
    tell: Callable[[int, float], None] | None,
) -> list[float]:
    """Change coefficients in place so that a loss gets small.

    Args:
        coefficients: That require gradients.
        options: Steps, rate and seed.
        data: For each model, pieces of its own text.
        loss_of: Of a piece of each model's text; and the divergence in it.
        tell: Called after each step with (steps done, divergence).

    Returns:
        Divergence of every step.
    """
    optimizer = torch.optim.Adam(coefficients, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / options.steps)
    losses = []
    for step, pieces in enumerate(rounds(data, options.steps, options.seed), 1):
        loss, apart = loss_of(pieces)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        losses.append(apart)
        if tell is not None:
            tell(step, apart)
    return losses
