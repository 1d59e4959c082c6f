"""Find out how much memory there is, and how much may be used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from tokensurgeon.errors import InputError

__all__ = ["free_memory", "host_memory", "parse_size"]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


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
    """Bytes that can still be had on a device, within the limits of control groups (version 2)."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    left = [max(0, limit - used) for limit, used in _groups()]
    return min([int(psutil.virtual_memory().available), *left])


def host_memory() -> int:
    """Bytes that processes here may have in all: the same at any time, whatever else runs."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _groups())])


def _groups() -> Iterator[tuple[int, int]]:
    """Limit and use of our control group and those above it. File cache does not count: it gives way."""
    try:
        line = next(line for line in _OWN_GROUP.read_text("utf-8").splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    own = _GROUPS / line[3:].lstrip("/")
    for group in (own, *own.parents):
        try:
            limit, used = (int((group / f"memory.{name}").read_text("utf-8")) for name in ("max", "current"))
            statistics = dict(entry.split() for entry in (group / "memory.stat").read_text("utf-8").splitlines())
        except (OSError, ValueError):  # no such group here, or no limit ("max")
            continue
        cache = int(statistics.get("active_file", 0)) + int(statistics.get("inactive_file", 0))
        yield limit, used - cache
