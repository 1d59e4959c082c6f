"""Let the process keep the memory that it frees, for the next large tensor."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _OWN_MAPPING = 2**30, 2**31 - 1
"""In bytes: what lies free at the end of memory is given back beyond this; and a block beyond this is mapped alone."""


def keep_freed_memory() -> None:
    """Ask glibc to use freed blocks again instead of giving them back; nothing where there is another libc.

    Logits of one text after the other take the same hundreds of megabytes. Mapped anew, each page is filled with zeros
    by the kernel first, which is a fifth of a transplant's processor time. What the user says of malloc comes first.
    """
    if any(name.startswith("MALLOC_") or "glibc.malloc" in text for name, text in os.environ.items()):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING):  # refused before glibc 2.35
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
