"""Merge models with different tokenizers: align them by transplants, then let mergekit merge.

mergekit (LGPL-3.0) is an optional package: it is imported when a merge runs, and none of its code is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokensurgeon.merging.run import MergeReport, merge

__all__ = ["MergeReport", "merge"]


def __getattr__(name: str) -> Any:
    """Import when asked for: ``python -m tokensurgeon.merging`` needs what the methods need, no more."""
    if name not in __all__:
        raise AttributeError(f"module 'tokensurgeon.merging' has no attribute {name!r}")
    from tokensurgeon.merging import run

    return getattr(run, name)
