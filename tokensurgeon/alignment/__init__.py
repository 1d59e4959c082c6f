"""Find out which donor token is which base token: the plan for every row."""

from tokensurgeon.alignment.match import align
from tokensurgeon.alignment.plan import Alignment, Blend, Ids, Provenance, RowPlan

__all__ = ["Alignment", "Blend", "Ids", "Provenance", "RowPlan", "align"]
