"""Teach a student what another model believes of text, whatever tokenizers the two have."""

from tokensurgeon.distilling.options import DistilOptions
from tokensurgeon.distilling.run import DistilReport, distil

__all__ = ["DistilOptions", "DistilReport", "distil"]
