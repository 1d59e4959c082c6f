"""Let the process keep the memory that it frees, for the next large tensor, or give it back."""

from __future__ import annotations

import ctypes
import os

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _OWN_MAPPING = 2**30, 2**31 - 1
"""In bytes: what lies free at the end of memory is given back beyond this; and a block beyond this is mapped alone."""
_USUAL_KEPT, _USUAL_MAPPING = 2**17, 2**25
"""glibc's own: the least for the first, the most for the second."""
_PRIMITIVES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_MOST_PRIMITIVES = 128
"""What one text needs. oneDNN keeps 1,024, which fill up with those of texts of other lengths."""


def keep_freed_memory() -> None:
    """Ask glibc to use freed blocks again instead of giving them back; nothing where there is another libc.

    Logits of one text after the other take the same hundreds of megabytes. Mapped anew, each page is filled with zeros
    by the kernel first, which is a fifth of a transplant's processor time. What the user says of malloc comes first.
    """
    os.environ.setdefault(_PRIMITIVES, str(_MOST_PRIMITIVES))
    _ask(_OWN_MAPPING, _KEPT)


def give_back_freed_memory() -> None:
    """Undo that, for a training: its many blocks of ever other sizes leave holes that nothing fits into."""
    _ask(_USUAL_MAPPING, _USUAL_KEPT)


def _ask(mapping: int, kept: int) -> None:
    if any(name.startswith("MALLOC_") or "glibc.malloc" in text for name, text in os.environ.items()):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and mallopt(_M_MMAP_THRESHOLD, mapping):  # refused before glibc 2.35
        mallopt(_M_TRIM_THRESHOLD, kept)
