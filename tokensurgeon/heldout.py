"""How well known rows are predicted: anchors held out, reconstructed, and compared with the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from tokensurgeon.omp import solve_omp
from tokensurgeon.transfer import transfer

__all__ = ["HeldOutScore", "score_held_out"]


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """Reconstruction of anchors as if the base had never had them.

    Attributes:
        anchors: How many were held out.
        cosine: Mean cosine between reconstructed and true base row.
        unexplained: Squared error over the variance of the true rows; 1 is as bad as their mean.
        norm_ratio: Median of reconstructed over true norm.
    """

    anchors: int
    cosine: float
    unexplained: float
    norm_ratio: float

    def as_dict(self) -> dict[str, float]:
        """Plain data."""
        return asdict(self)


def score_held_out(
    donor_anchors: torch.Tensor,
    base_anchors: torch.Tensor,
    k: int,
    *,
    generator: torch.Generator,
    sample: int = 256,
    exact: bool = False,
    memory: int | None = None,
    device: str | torch.device = "cpu",
) -> HeldOutScore:
    """Hold out up to ``sample`` anchors (at most a tenth) and reconstruct them from the others.

    Args:
        donor_anchors: (n_anchors, donor dim).
        base_anchors: (n_anchors, base dim), the same tokens.
        k: Sparsity.
        generator: Chooses the anchors.
        sample: Anchors to hold out.
        exact: Prove every pick, see `solve_omp`.
        memory: Bytes of work space, see `solve_omp`.
        device: Where to solve.
    """
    n = len(donor_anchors)
    order = torch.randperm(n, generator=generator)
    held = order[: max(1, min(sample, n // 10))]
    kept = order[len(held) :].sort().values
    coefficients = solve_omp(
        donor_anchors[held], donor_anchors[kept], min(k, len(kept)), exact=exact, memory=memory, device=device
    )
    guess, truth = transfer(coefficients, base_anchors[kept]), base_anchors[held].float()
    spread = (truth - truth.mean(dim=0)).square().sum().clamp(min=1e-12)
    ratio = guess.norm(dim=1) / truth.norm(dim=1).clamp(min=1e-12)
    return HeldOutScore(
        anchors=len(held),
        cosine=float(torch.nn.functional.cosine_similarity(guess, truth).mean()),
        unexplained=float((guess - truth).square().sum() / spread),
        norm_ratio=float(ratio.median()),
    )
