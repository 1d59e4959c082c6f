"""Take the digests of files, once while the process runs."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

__all__ = ["file_digest", "file_state"]


def file_state(path: Path) -> tuple[int, ...]:
    """Size, times and inode: while they stay what they are, so does the file, for all that is kept of it."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns


def file_digest(path: Path) -> str:
    """SHA-256 of a file, which is not read again in this process while size, times and inode stay what they are."""
    return _read_digest(path, *file_state(path))


@cache
def _read_digest(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
