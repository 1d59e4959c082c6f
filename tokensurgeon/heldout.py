"""How well known rows are predicted: anchors held out, reconstructed, and compared with the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from tokensurgeon.reconstruct import BaseRows, DonorSpace, Method, Resources

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
    base_rows: torch.Tensor,
    method: Method,
    resources: Resources,
    *,
    sample: int = 256,
) -> HeldOutScore | None:
    """Hold out up to ``sample`` anchors (at most a tenth) and reconstruct them from the others.

    Args:
        donor_anchors: (n_anchors, donor dim).
        base_anchors: (n_anchors, base dim), the same tokens.
        base_rows: (rows, base dim), all of the base's.
        method: Reconstructs. It cannot be one that goes by text: an anchor's text is the anchor.
        resources: What it may use; the seed chooses the anchors.
        sample: Anchors to hold out.

    Returns:
        The score, or None if fewer anchors are left than the method's k.
    """
    n = len(donor_anchors)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(resources.seed))
    held = order[: max(1, min(sample, n // 10))]
    kept = order[len(held) :].sort().values
    if getattr(method, "k", 1) > len(kept):
        return None
    fitted = method.fit(DonorSpace(donor_anchors[held], donor_anchors[kept]), replace(resources, progress=None))
    guess, truth = fitted.rows(BaseRows(base_rows, base_anchors[kept], "input")), base_anchors[held].float()
    spread = (truth - truth.mean(dim=0)).square().sum().clamp(min=1e-12)
    ratio = guess.norm(dim=1) / truth.norm(dim=1).clamp(min=1e-12)
    return HeldOutScore(
        anchors=len(held),
        cosine=float(torch.nn.functional.cosine_similarity(guess, truth).mean()),
        unexplained=float((guess - truth).square().sum() / spread),
        norm_ratio=float(ratio.median()),
    )
