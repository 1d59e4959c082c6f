"""Models with different tokenizers in one merge: aligned by transplants, merged by mergekit.

mergekit (LGPL-3.0) is an optional package: it is imported when a merge runs, and none of its code is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokensurgeon.merging.run import MergeReport, merge

__all__ = ["MergeReport", "merge"]


def __getattr__(name: str) -> Any:
    """Import what a merge needs when one is asked for: estimates and methods in this package need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tokensurgeon.merging import run

    return getattr(run, name)
