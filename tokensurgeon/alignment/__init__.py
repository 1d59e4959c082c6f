"""Find out which donor token is which base token: the plan for every row."""

from tokensurgeon.alignment.match import align
from tokensurgeon.alignment.plan import Alignment, Ids, Provenance, RowPlan

__all__ = ["Alignment", "Ids", "Provenance", "RowPlan", "align"]
