"""Describe a run for the manifest, as plain data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from tokensurgeon.alignment import Provenance, RowPlan
from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.surgery.options import MethodOptions
from tokensurgeon.transfer.heldout import HeldOutScore
from tokensurgeon.transfer.protocol import Method
from tokensurgeon.transfer.rows import NewRows, VocabularyMatrices, atom_ids

__all__ = ["describe_asked", "describe_method", "describe_run", "describe_solution", "learnt_from"]


def describe_run(options: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, what was asked for, and what makes the rows."""
    packages = ("tokensurgeon", "torch", "transformers", "tokenizers", "safetensors")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return {"versions": versions, "options": dict(options), "method": dict(method)}


def describe_asked(options: MethodOptions) -> dict[str, Any]:
    """Versions, options, and the method that they name."""
    wanted = options.auto or options.reconstruction()
    return describe_run(options.as_dict(), {"name": options.method, **asdict(wanted)})


def describe_method(method: Method) -> dict[str, Any]:
    """A method's name and options."""
    return {"name": method.name, **asdict(method)}


def learnt_from(method: Method, plan: RowPlan, donor: VocabularyMatrices) -> dict[str, int] | None:
    """How many anchors there are to learn from, of how many dimensions; None for methods that ask no donor."""
    if method.needs != "donor" or not len(plan.ids(Provenance.RECONSTRUCTED)):
        return None
    return {"anchors": len(atom_ids(plan, donor)), "dim": donor.embedding.shape[1]}


def describe_solution(summary: Mapping[str, Any], rows: NewRows, held_out: HeldOutScore | None) -> dict[str, Any]:
    """What was aligned and how well it was solved."""
    return {
        **{name: value for name, value in summary.items() if name not in ("examples", "coverage")},
        "residual": {name: _residuals(c) for name, c in rows.coefficients.items()},
        "held_out": held_out.as_dict() if held_out else None,
    }


def _residuals(coefficients: SparseCoefficients) -> Mapping[str, float]:
    """Residual norms of the reconstructed donor rows that have a vector, absolute, with the mean number of atoms."""
    residual = coefficients.residual[coefficients.n_active > 0]
    if not len(residual):
        return {}
    quantiles = torch.quantile(residual[:1_000_000], torch.tensor([0.05, 0.5, 0.95]))
    return {
        "mean": float(residual.mean()),
        **{f"p{p}": float(q) for p, q in zip((5, 50, 95), quantiles, strict=True)},
        "mean_atoms": float(coefficients.n_active.float().mean()),
    }
