"""Find the weights of an average by Frank-Wolfe steps on data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tokensurgeon.merging.estimate.dam_training import Forward
from tokensurgeon.merging.estimate.pieces import Per, Tensors, changed, divergence, group_of, rounds
from tokensurgeon.merging.estimate.training import TrainedCoefficients, refuse_training
from tokensurgeon.merging.methods.fw import frank_wolfe_step, fw_merge

__all__ = ["FrankWolfeOptions", "fit_fw"]


@dataclass(frozen=True, slots=True)
class FrankWolfeOptions:
    """How the weights are found.

    Attributes:
        steps: Steps; each reads one piece of every model's text.
        seed: For the order of the pieces.
        temperature: Of both distributions in the divergence.
        per: Whether every layer has weights of its own.
    """

    steps: int = 60
    seed: int = 0
    temperature: float = 2.0
    per: Per = "model"

    def __post_init__(self) -> None:
        """Refuse what cannot be used.

        Raises:
            InputError: For steps below 1, or a temperature that is not above 0.
        """
        refuse_training(self.steps, temperature=self.temperature)


def fit_fw(
    sources: Sequence[Tensors],
    forward: Forward,
    data: Sequence[Sequence[torch.Tensor]],
    options: FrankWolfeOptions | None = None,
    tell: Callable[[int, float], None] | None = None,
) -> TrainedCoefficients:
    """Find the average that speaks like each model on that one's text.

    The loss is the sum over models of KL(model || merged) on the model's own text, as for `fit` of DAM, where the paper
    takes labels. The first merge is the plain mean; step t goes 2 / (t + 3) of the way to one of the models.

    Args:
        sources: n models' tensors by name, the same names and shapes.
        forward: Weights and a piece of data to logits (..., classes); differentiable in the weights.
        data: For each model, pieces of its own text.
        options: See `FrankWolfeOptions`.
        tell: Called after each step with (steps done, divergence).

    Returns:
        By tensor (n,) weights of sum 1.
    """
    options = options or FrankWolfeOptions()
    n, groups = len(sources), {name: group_of(name, options.per) for name in sources[0]}
    device = next(iter(sources[0].values())).device
    weights = {group: torch.full((n,), 1 / n, device=device) for group in groups.values()}
    losses, differ = [], changed(sources[0], sources[1:])
    for step, pieces in enumerate(rounds(data, options.steps, options.seed)):
        leaves = {group: found.requires_grad_() for group, found in weights.items()}
        merged = {
            name: fw_merge([s[name] for s in sources], leaves[group]) if name in differ else sources[0][name]
            for name, group in groups.items()
        }
        total = torch.zeros((), device=device)
        for source, piece in zip(sources, pieces, strict=True):
            with torch.no_grad():
                wanted = forward(source, piece)
            total = total + divergence(wanted, forward(merged, piece), options.temperature)
        gradients: Sequence[torch.Tensor | None] = [None] * len(leaves)
        if total.requires_grad:  # unless models are equal in all that the text uses
            gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        weights = {
            group: found.detach() if gradient is None else frank_wolfe_step(found.detach(), gradient, 2 / (step + 3))
            for (group, found), gradient in zip(leaves.items(), gradients, strict=True)
        }
        losses.append(float(total.detach()))
        if tell is not None:
            tell(step + 1, losses[-1])
    return TrainedCoefficients({name: weights[group].clone() for name, group in groups.items()}, losses)
