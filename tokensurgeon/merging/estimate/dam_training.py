"""Fit DAM's coefficients to data by its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch.nn.functional import cosine_similarity

from tokensurgeon.merging.estimate.pieces import Tensors, divergence
from tokensurgeon.merging.estimate.training import TrainedCoefficients, descend, refuse_training
from tokensurgeon.merging.methods.dam import dam_merge

__all__ = ["DamOptions", "Forward", "fit"]

Forward = Callable[[Tensors, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class DamOptions:
    """How the coefficients are trained. The weights of the penalties are those of the authors' code.

    Attributes:
        steps: Updates; each reads one piece of every model's text.
        learning_rate: Of Adam; it falls to zero over the steps. The authors' 0.01 makes a merge of models
            that are close to each other worse before it makes it better.
        seed: For the order of the pieces.
        temperature: Of both distributions in the divergence.
        similarity: Weight of the cosine between the models' coefficients, summed over tensors.
        l1: Weight of the sum of absolute coefficients.
        l2: Weight of their norms, one per tensor and model.
    """

    steps: int = 60
    learning_rate: float = 0.001
    seed: int = 0
    temperature: float = 2.0
    similarity: float = 0.01
    l1: float = 1e-6
    l2: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            InputError: For steps below 1, or a learning rate or temperature that is not above 0.
        """
        refuse_training(self.steps, learning_rate=self.learning_rate, temperature=self.temperature)


def fit(
    sources: Sequence[Tensors],
    forward: Forward,
    data: Sequence[Sequence[torch.Tensor]],
    options: DamOptions | None = None,
    tell: Callable[[int, float], None] | None = None,
) -> TrainedCoefficients:
    """Train one coefficient per model, tensor and column so that the merged model speaks like each on that one's text.

    The loss is the sum over models of KL(model || merged) on the model's own text, plus the penalties: cosine
    similarity between models' coefficients, L1 and L2 (arXiv 2410.08371). All coefficients start at 1 / n,
    the plain mean.

    Args:
        sources: n models' tensors by name, the same names and shapes.
        forward: Weights and a piece of data to logits (..., classes); differentiable in the weights.
        data: For each model, pieces of its own text.
        options: See `DamOptions`.
        tell: Called after each step with (steps done, divergence).
    """
    options = options or DamOptions()
    n = len(sources)
    coefficients = {
        name: torch.full((n, tensor.shape[-1]), 1 / n, device=tensor.device).requires_grad_()
        for name, tensor in sources[0].items()
    }

    def loss_of(pieces: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float]:
        merged = {name: dam_merge([s[name] for s in sources], c) for name, c in coefficients.items()}
        loss, apart = _penalty(coefficients, options), 0.0
        for source, piece in zip(sources, pieces, strict=True):
            with torch.no_grad():
                wanted = forward(source, piece)
            kl = divergence(wanted, forward(merged, piece), options.temperature)
            loss = loss + kl * options.temperature**2
            apart += float(kl.detach())
        return loss, apart

    losses = descend(coefficients.values(), options, data, loss_of, tell)
    return TrainedCoefficients({name: c.detach() for name, c in coefficients.items()}, losses)


def _penalty(coefficients: Tensors, options: DamOptions) -> torch.Tensor:
    total = torch.zeros((), device=next(iter(coefficients.values())).device)
    for of in coefficients.values():
        pairs = [cosine_similarity(a, b, dim=0) for a, b in combinations(of, 2)]
        if pairs:
            total = total + options.similarity * torch.stack(pairs).mean()
        total = total + options.l1 * of.abs().sum() + options.l2 * of.norm(dim=1).sum()
    return total
