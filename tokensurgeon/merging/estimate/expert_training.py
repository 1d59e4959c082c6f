"""Train the coefficients of task vectors, layer by layer, by what models predict and by their hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.estimate.pieces import Per, Tensors, changed, divergence, group_of
from tokensurgeon.merging.estimate.training import TrainedCoefficients, descend, refuse_training
from tokensurgeon.merging.methods.expert import expert_merge

__all__ = ["ExpertOptions", "fit_expert"]

_TINY = torch.finfo(torch.float32).tiny

Thought = tuple[torch.Tensor, Sequence[torch.Tensor]]
"""Logits, and hidden states by layer."""


@dataclass(frozen=True, slots=True)
class ExpertOptions:
    """How the coefficients are trained.

    Attributes:
        steps: Updates; each reads one piece of every model's text.
        learning_rate: Of Adam; it falls to zero over the steps.
        seed: For the order of the pieces.
        temperature: Of both distributions in the divergence.
        hidden: Weight of the hidden states' distance; 0 leaves them out.
        l1: Weight of the mean distance of the coefficients from where they start.
        per: Whether every layer has coefficients of its own.
    """

    steps: int = 60
    learning_rate: float = 0.02
    seed: int = 0
    temperature: float = 2.0
    hidden: float = 0.0
    l1: float = 0.01
    per: Per = "layer"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            InputError: For steps below 1, or a learning rate or temperature that is not above 0, or a negative weight.
        """
        refuse_training(self.steps, learning_rate=self.learning_rate, temperature=self.temperature)
        for name in ("hidden", "l1"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 0 or more")


def fit_expert(
    base: Tensors,
    sources: Sequence[Tensors],
    forward: Callable[[Tensors, torch.Tensor], Thought],
    data: Sequence[Sequence[torch.Tensor]],
    options: ExpertOptions | None = None,
    tell: Callable[[int, float], None] | None = None,
) -> TrainedCoefficients:
    """Train one coefficient per model and layer so that the merged model does on each text as that one's model does.

    The loss is the sum over models of KL(model || merged) on the model's own text, plus the hidden states' distance,
    plus what keeps coefficients where they start, at 1 / n each. The distance is the mean over layers of the squared
    norm of the difference over that of the model's own states, where the paper does not divide: so large layers count
    as much as small ones.

    Args:
        base: What the models were tuned from, by name.
        sources: n models' tensors by name, the same names and shapes.
        forward: Weights and a piece of data to logits (..., classes) and hidden states; differentiable in the weights.
            There may be no states where ``options.hidden`` is 0.
        data: For each model, pieces of its own text.
        options: See `ExpertOptions`.
        tell: Called after each step with (steps done, divergence).

    Returns:
        By tensor (n,) coefficients.
    """
    options = options or ExpertOptions()
    n, groups = len(sources), {name: group_of(name, options.per) for name in base}
    device = next(iter(base.values())).device
    coefficients = {group: torch.full((n,), 1 / n, device=device).requires_grad_() for group in groups.values()}
    tuned = changed(base, sources)

    def loss_of(pieces: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float]:
        merged = {
            name: expert_merge(base[name], [s[name] for s in sources], coefficients[group])
            if name in tuned
            else base[name]
            for name, group in groups.items()
        }
        loss = options.l1 * (torch.stack(list(coefficients.values())) - 1 / n).abs().mean()
        apart = 0.0
        for source, piece in zip(sources, pieces, strict=True):
            with torch.no_grad():
                wanted, states = forward(source, piece)
            found, own = forward(merged, piece)
            kl = divergence(wanted, found, options.temperature)
            loss = loss + kl * options.temperature**2
            if options.hidden:
                loss = loss + options.hidden * _distance(states, own)
            apart += float(kl.detach())
        return loss, apart

    losses = descend(coefficients.values(), options, data, loss_of, tell)
    trained = {name: coefficients[group].detach().clone() for name, group in groups.items()}
    return TrainedCoefficients(trained, losses)


def _distance(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> torch.Tensor:
    parts = [
        (one.float() - other.float()).square().sum() / one.float().square().sum().clamp(min=_TINY)
        for one, other in zip(wanted, found, strict=True)
    ]
    return torch.stack(parts).mean()
