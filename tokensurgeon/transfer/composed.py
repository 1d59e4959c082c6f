"""Find how much of a token's donor row is what the rows of its pieces have in common with it.

The text of a new token is a sequence of tokens that the base has. As far as the donor's row t lies along the mean m of
its own rows of these pieces, the base's will lie along the mean of its. With the anchors' mean row μ, that share is the
least-squares one of m - μ in t - μ, from 0 to 1, each token's own: near 1 for line breaks behind a sign and for runs of
a sign, small for most words. The more pieces, the shorter their mean, and the more of its share is chance.
"""

from __future__ import annotations

import torch

from tokensurgeon.transfer.protocol import DonorSpace, Pieces
from tokensurgeon.transfer.statistics import piece_means

__all__ = ["at_anchors", "shares_of"]


def at_anchors(pieces: Pieces, ids: torch.Tensor) -> Pieces:
    """Pieces as positions among the anchors, of (n_anchors,) base ids; -1 for what is none of them."""
    if not len(ids):
        return Pieces(torch.full_like(pieces.ids, -1), pieces.starts)
    order = ids.argsort(stable=True)
    at = torch.searchsorted(ids[order], pieces.ids).clamp(max=len(ids) - 1)
    return Pieces(torch.where(ids[order][at] == pieces.ids, order[at], -1), pieces.starts)


def shares_of(
    space: DonorSpace, pieces: Pieces, part: slice, middle: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the pieces of some targets say of their rows in the donor.

    Args:
        space: Targets and anchors in one of the donor's matrices.
        pieces: Of all targets, from `at_anchors`.
        part: Which targets.
        middle: (dim,) float32 mean of the anchors' rows.

    Returns:
        (n,) float32 shares, 0 where a piece is no anchor or nothing can be said; and (n, dim) float32, the means of the
        pieces' rows less the anchors' mean.
    """
    some, targets = pieces[part], space.targets[part].float()
    lengths = some.lengths()
    unknown = torch.zeros(len(lengths)).index_add_(0, torch.repeat_interleave(lengths), (some.ids < 0).float())
    along = piece_means(space.anchors, Pieces(some.ids.clamp(min=0), some.starts)) - middle
    found = ((targets - middle) * along).sum(dim=1) / along.square().sum(dim=1)
    said = (lengths > 0) & (unknown == 0) & targets.any(dim=1) & found.isfinite()
    return torch.where(said, found.clamp(0, 1), 0.0), along
