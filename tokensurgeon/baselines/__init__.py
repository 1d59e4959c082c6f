"""Methods that make rows for tokens which the base does not have, behind one protocol."""

from tokensurgeon.baselines.registry import METHODS, fasttext_units, goes_by_donor, make_method
from tokensurgeon.transfer.protocol import Auxiliary, BaseRows, DonorSpace, Fitted, Method, Pieces, Resources, all_rows

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
