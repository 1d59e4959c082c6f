"""Make drafts for speculative decoding."""

from tokensurgeon.drafting.make import DraftReport, make_draft
from tokensurgeon.drafting.options import MakeDraftOptions

__all__ = ["DraftReport", "MakeDraftOptions", "make_draft"]
