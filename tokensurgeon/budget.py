"""How much memory there is, and how much may be used."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

from tokensurgeon.errors import InputError

__all__ = ["free_memory", "parse_size"]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_CGROUP = Path("/sys/fs/cgroup")


def parse_size(text: object) -> int:
    """Bytes in a size such as ``4GiB``, ``512M`` or ``2000000000``; units are powers of 1024.

    Raises:
        InputError: If it is no size, or zero.
    """
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise InputError(f"memory={text!r} is not a size. Write it like 4GiB or 512MiB")
    return size


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device, within a container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return free
    return min(free, max(0, limit - used))
