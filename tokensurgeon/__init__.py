"""Give a language model another tokenizer without training it, and know what that cost.

    >>> from tokensurgeon import TransplantOptions, transplant
    >>> report = transplant("path/to/base", "path/to/donor", "out", TransplantOptions(k=64))
    >>> report.alignment.counts()

The parts work alone too, on vocabularies and tensors without any files: `Vocabulary`, `align`,
`solve_omp` and `build_rows`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokensurgeon.alignment import Alignment, Provenance, align
    from tokensurgeon.config import TransplantOptions
    from tokensurgeon.errors import InputError, VerificationError
    from tokensurgeon.omp import SparseCoefficients, solve_omp
    from tokensurgeon.pipeline import transplant
    from tokensurgeon.rows import build_rows
    from tokensurgeon.vocabulary import Vocabulary

__all__ = [
    "Alignment",
    "InputError",
    "Provenance",
    "SparseCoefficients",
    "TransplantOptions",
    "VerificationError",
    "Vocabulary",
    "align",
    "build_rows",
    "solve_omp",
    "transplant",
]

_HOMES = {
    "Alignment": "alignment",
    "InputError": "errors",
    "Provenance": "alignment",
    "SparseCoefficients": "omp",
    "TransplantOptions": "config",
    "VerificationError": "errors",
    "Vocabulary": "vocabulary",
    "align": "alignment",
    "build_rows": "rows",
    "solve_omp": "omp",
    "transplant": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that ``--help`` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tokensurgeon' has no attribute {name!r}")
    value = getattr(import_module(f"tokensurgeon.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
