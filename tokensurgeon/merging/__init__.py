"""Models with different tokenizers in one merge: aligned by transplants, merged by mergekit.

mergekit (LGPL-3.0) is an optional package: it is imported when a merge runs, and none of its code is here.
"""

from __future__ import annotations

from tokensurgeon.merging.run import MergeReport, merge

__all__ = ["MergeReport", "merge"]
