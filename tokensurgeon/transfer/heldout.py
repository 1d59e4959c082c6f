"""Score how well known rows are predicted: hold anchors out, reconstruct them, compare with the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from tokensurgeon.transfer.protocol import Auxiliary, BaseRows, DonorSpace, Method, Resources, all_rows
from tokensurgeon.transfer.statistics import mean_row

__all__ = ["HeldOutScore", "score_held_out"]

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """Reconstruction of anchors as if the base had never had them.

    Attributes:
        anchors: How many were held out.
        cosine: Mean cosine between reconstructed and true base row. What all rows have in common is in it.
        correlation: The same after the base's mean row is taken from both: about 0 for a donor whose rows say nothing,
            whatever the rows have in common.
        unexplained: Squared error over the variance of the true rows; 1 is as bad as their mean.
        norm_ratio: Median of reconstructed over true norm.
        rank: Median place of the true row among all of the base's by cosine with the reconstructed one; 1 is best.
    """

    anchors: int
    cosine: float
    correlation: float
    unexplained: float
    norm_ratio: float
    rank: float

    def as_dict(self) -> dict[str, float]:
        """Plain data."""
        return asdict(self)


def score_held_out(
    donor_anchors: torch.Tensor,
    ids: torch.Tensor,
    base_rows: torch.Tensor,
    method: Method,
    resources: Resources,
    *,
    auxiliary: Auxiliary | None = None,
    sample: int = 256,
) -> HeldOutScore | None:
    """Hold out up to ``sample`` anchors (at most a tenth) and reconstruct them from the others.

    Args:
        donor_anchors: (n_anchors, donor dim).
        ids: (n_anchors,) int64, the same tokens' ids in the base.
        base_rows: (rows, base dim), all of the base's.
        method: Reconstructs. It cannot be one that goes by text: an anchor's text is the anchor. One that does in part
            goes without here.
        resources: What it may use; the seed chooses the anchors.
        auxiliary: Where the method compares tokens, if not in the donor's space; its sources are held out then.
        sample: Anchors to hold out.

    Returns:
        The score, or None if fewer anchors are left than the method's k, or those held out do not differ.
    """
    rows = donor_anchors
    if auxiliary is not None:
        rows, ids = auxiliary.sources, auxiliary.ids
    n = len(rows)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(resources.seed))
    held = order[: max(1, min(sample, n // 10))]
    kept = order[len(held) :].sort().values
    if getattr(method, "k", 1) > len(kept):
        return None
    space = DonorSpace(rows[held], rows[kept])
    if auxiliary is not None:
        space = replace(space, auxiliary=Auxiliary(rows[held], rows[kept], ids[kept]))
    fitted = method.fit(space, replace(resources, progress=None))
    guess = all_rows(fitted, BaseRows(base_rows, base_rows[ids[kept]], "input"))
    truth = base_rows[ids[held]].float()
    middle = mean_row(base_rows)
    spread = (truth - truth.mean(dim=0)).square().sum()
    if not spread:  # one anchor, or the same row for all
        return None
    cosines = torch.nn.functional.cosine_similarity(guess, truth)
    return HeldOutScore(
        anchors=len(held),
        cosine=float(cosines.mean()),
        correlation=float(torch.nn.functional.cosine_similarity(guess - middle, truth - middle, dim=1).mean()),
        unexplained=float((guess - truth).square().sum() / spread),
        norm_ratio=float((guess.norm(dim=1) / truth.norm(dim=1).clamp(min=1e-12)).median()),
        rank=float(_ranks(guess, cosines, base_rows).median()),
    )


def _ranks(guess: torch.Tensor, cosines: torch.Tensor, base_rows: torch.Tensor) -> torch.Tensor:
    """One more than the number of the base's rows that are nearer than the true one; equal ones count half."""
    guess, ranks = torch.nn.functional.normalize(guess, dim=1), torch.full((len(guess),), 0.5)
    for start in range(0, len(base_rows), _CHUNK):
        some = torch.nn.functional.normalize(base_rows[start : start + _CHUNK].float(), dim=1)
        nearer = guess @ some.T - cosines[:, None]
        ranks += (nearer > 1e-5).sum(dim=1) + 0.5 * (nearer.abs() <= 1e-5).sum(dim=1)
    return ranks
