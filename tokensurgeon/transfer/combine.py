"""Write every target as a combination of base tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.solver.problem import check_problem
from tokensurgeon.transfer.linear import Mapped
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Fitted, Resources, Space, parts
from tokensurgeon.transfer.statistics import normal_rows

__all__ = ["Compared", "Completed", "Weights", "compared", "transfer", "weights_of"]


@dataclass(frozen=True, slots=True)
class Weights:
    """Combinations, by their coefficients.

    Attributes:
        coefficients: Over the anchors, or over ``ids``.
        ids: (n_sources,) base ids that the coefficients are over; None for the anchors.
        seed: For rows of targets that have no vector in an auxiliary space: they are drawn, as in the papers, from
            a normal distribution with the base's mean and covariance.
    """

    coefficients: SparseCoefficients
    ids: torch.Tensor | None = None
    seed: int = 0

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        """The same combinations of the base's rows."""
        known = (base.anchors if self.ids is None else base.every[self.ids]).float()
        missing = torch.zeros(len(self.coefficients), dtype=torch.bool)
        if self.ids is not None:
            missing = self.coefficients.n_active == 0
            drawn = torch.cat(list(normal_rows(base, int(missing.sum()), self.seed)))
            place = missing.cumsum(0) - 1
        for part in parts(len(self.coefficients)):
            rows = transfer(self.coefficients[part], known)
            if bool(missing[part].any()):
                rows[missing[part]] = drawn[place[part][missing[part]]]
            yield rows


@dataclass(frozen=True, slots=True)
class Completed:
    """Combinations of anchors, and what these leave of the donor's rows by a linear map.

    With c the coefficients of a token, a the donor's rows of the anchors and b the base's, and M the map with its
    constant, the row is M(t) + Σ c (b - M(a)): what the map makes of the donor's row t, and how far it is wrong about
    the anchors that t is made of. Where the pieces of the tokens are known, M(t) is corrected by them, see `Mapped`.

    Attributes:
        weights: The combinations, over the anchors, of the first targets; the rows of the others are M(t).
        mapped: The map.
    """

    weights: Weights
    mapped: Mapped

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        """See `Fitted`."""
        learnt, space = self.mapped.onto(base), self.mapped.space
        for part in parts(len(space.targets)):
            rows, some = self.mapped.rows(learnt, base, part), self.weights.coefficients[part]
            if len(some):
                used, places = torch.unique(some.indices, return_inverse=True)  # no copy of all anchors in float32
                told, share = replace(some, indices=places), some.values.sum(dim=1, keepdim=True)
                mapped = (transfer(told, space.anchors[used]) - share * learnt.before) @ learnt.matrix
                rows[: len(some)] += transfer(told, base.anchors[used]) - mapped - share * learnt.after
            yield rows


def weights_of(fitted: Fitted) -> Weights | None:
    """The combinations that rows are, or are made with; None where there are none."""
    found = fitted.weights if isinstance(fitted, Completed) else fitted
    return found if isinstance(found, Weights) else None


@dataclass(frozen=True, slots=True)
class Compared:
    """Targets and the tokens that they are compared with, in one space.

    Attributes:
        targets: (n_targets, dim).
        sources: (n_sources, dim).
        ids: (n_sources,) base ids; None where the sources are the anchors.
    """

    targets: torch.Tensor
    sources: torch.Tensor
    ids: torch.Tensor | None

    def weights(self, indices: torch.Tensor, values: torch.Tensor, resources: Resources) -> Weights:
        """(n_targets, k) weights over the sources, with what they leave of the targets.

        Targets without a vector get none.
        """
        values = torch.where(self.targets.any(dim=1)[:, None], values, 0.0)
        plain = SparseCoefficients(indices, values, (values != 0).sum(dim=1), torch.empty(0))
        residual = torch.linalg.vector_norm(self.targets.float() - transfer(plain, self.sources), dim=1)
        return Weights(SparseCoefficients(indices, values, plain.n_active, residual), self.ids, resources.seed)


def compared(space: DonorSpace, which: Space, k: int = 1) -> Compared:
    """The space that a method goes by.

    Raises:
        InputError: If it is not given, has fewer than k sources, or holds values that are not finite.
    """
    if which == "donor":
        found = Compared(space.targets, space.anchors, None)
    elif space.auxiliary is None:
        raise InputError("space=fasttext needs a text to train the vectors on. Give --text FILE")
    else:
        found = Compared(space.auxiliary.targets, space.auxiliary.sources, space.auxiliary.ids)
        if len(found.sources) < k:
            raise InputError(
                f"the text gives vectors to {len(found.sources)} tokens of the base only, fewer than k={k}. "
                "Give more text"
            )
    check_problem(found.targets, found.sources, k)
    return found


def transfer(coefficients: SparseCoefficients, base_anchors: torch.Tensor) -> torch.Tensor:
    """Apply the coefficients to the base's rows of the same anchors.

    Args:
        coefficients: ``n_targets`` combinations of ``n_anchors`` atoms.
        base_anchors: (n_anchors, dim) rows, in the order of the atoms; any floating dtype.

    Returns:
        (n_targets, dim) float32.
    """
    return torch.nn.functional.embedding_bag(
        coefficients.indices, base_anchors.float(), per_sample_weights=coefficients.values, mode="sum"
    )
