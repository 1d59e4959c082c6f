"""Solve Orthogonal Matching Pursuit by scikit-learn: a verifier does not trust the solver that it verifies."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.transfer.combine import Completed, Weights
from tokensurgeon.transfer.linear import Mapped
from tokensurgeon.transfer.protocol import DonorSpace, Needs, Resources

__all__ = ["ReferenceOmp"]


@dataclass(frozen=True, slots=True)
class ReferenceOmp:
    """``sklearn.linear_model.orthogonal_mp`` on unit atoms, in float64.

    Attributes:
        k: Anchors per token.
        rest: As in `tokensurgeon.transfer.omp.Omp`. All targets are combined.
    """

    name: ClassVar[str] = "omp"
    needs: ClassVar[Needs] = "donor"
    k: int
    rest: Literal["mapped", "dropped"]

    def fit(self, space: DonorSpace, _: Resources) -> Weights | Completed:
        """Solve one target after the other."""
        from sklearn.linear_model import orthogonal_mp

        atoms, targets = space.anchors.double(), space.targets.double()
        norms = torch.linalg.vector_norm(atoms, dim=1)
        unit = (atoms / torch.where(norms > 0, norms, 1.0)[:, None]).numpy()
        indices = torch.zeros(len(targets), self.k, dtype=torch.int64)
        values = torch.zeros(len(targets), self.k)
        active = torch.zeros(len(targets), dtype=torch.int64)
        residual = torch.zeros(len(targets))
        for row, target in enumerate(targets):
            if not target.any():
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # it stops early where nothing is left to explain
                found = orthogonal_mp(unit.T, target.numpy(), n_nonzero_coefs=min(self.k, unit.shape[1]))
            (chosen,) = np.nonzero(found)
            indices[row, : len(chosen)] = torch.from_numpy(chosen)
            values[row, : len(chosen)] = torch.from_numpy(found[chosen] / norms.numpy()[chosen]).float()
            active[row] = len(chosen)
            residual[row] = float(np.linalg.norm(target.numpy() - found[chosen] @ unit[chosen]))
        weights = Weights(SparseCoefficients(indices, values, active, residual))
        return weights if self.rest == "dropped" else Completed(weights, Mapped(space))
