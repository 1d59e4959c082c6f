"""Make rows for tokens which the base does not have, by methods behind one protocol."""

from tokensurgeon.baselines.registry import METHODS, make_method, names_needing, with_options
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
    "make_method",
    "names_needing",
    "with_options",
]
