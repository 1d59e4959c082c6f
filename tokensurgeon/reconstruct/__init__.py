"""Methods that make rows for tokens which the base does not have, behind one protocol."""

from tokensurgeon.reconstruct.protocol import (
    Auxiliary,
    BaseRows,
    DonorSpace,
    Fitted,
    Method,
    Pieces,
    Resources,
    all_rows,
)
from tokensurgeon.reconstruct.registry import METHODS, fasttext_units, goes_by_donor, make_method

__all__ = [
    "METHODS",
    "Auxiliary",
    "BaseRows",
    "DonorSpace",
    "Fitted",
    "Method",
    "Pieces",
    "Resources",
    "all_rows",
    "fasttext_units",
    "goes_by_donor",
    "make_method",
]
