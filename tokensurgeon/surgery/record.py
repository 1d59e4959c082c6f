"""What the manifest says about a run, as plain data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from tokensurgeon.baselines import METHODS
from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.transfer.heldout import HeldOutScore
from tokensurgeon.transfer.protocol import Method
from tokensurgeon.transfer.rows import NewRows

__all__ = ["describe_method", "describe_run", "describe_solution"]


def describe_run(options: TransplantOptions) -> dict[str, Any]:
    """Versions and options."""
    packages = ("tokensurgeon", "torch", "transformers", "tokenizers", "safetensors")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "options": options.as_dict(),
        "method": {"name": options.method, **asdict(options.reconstruction())},
    }


def describe_method(method: Method, calibrated: bool, choice: Mapping[str, Any] | None) -> dict[str, Any]:
    """What made the rows, whatever was asked for; ``choice`` says why it was chosen, if it was."""
    name = next(name for name, cls in METHODS.items() if isinstance(method, cls))
    return {"method": {"name": name, **asdict(method)}, "calibrated": calibrated, "choice": choice}


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
