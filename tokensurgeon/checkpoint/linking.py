"""Clone, link or copy files that are to be in the output as they are."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Literal, get_args

from tokensurgeon.errors import InputError

__all__ = ["LINKS", "Link", "place"]

Link = Literal["auto", "hard", "copy"]
LINKS = get_args(Link)
_FICLONE = 0x40049409
"""Linux: share the blocks of another file until one of the two is written to (btrfs, XFS, bcachefs)."""


def place(source: Path, target: Path, how: Link) -> bool:
    """Make ``target`` hold what ``source`` holds; whether both share their blocks then.

    Args:
        source: A file, or a link to one.
        target: Must not exist.
        how: ``hard`` makes a hard link, which costs nothing, and is the same file: never edit it in place. ``copy``
            copies. ``auto`` clones where the file system can, otherwise links, otherwise copies.

    Raises:
        InputError: If a hard link is asked for and cannot be made.
    """
    source = source.resolve()
    if how == "auto" and _clone(source, target):
        return True
    if how != "copy":
        try:
            os.link(source, target)
            return True
        except OSError as error:
            if how == "hard":
                raise InputError(
                    f"{source} cannot be hard-linked into the output ({error.strerror}). Use --link copy, or an --out "
                    "on the same file system"
                ) from error
    shutil.copyfile(source, target)
    return False


def _clone(source: Path, target: Path) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    with contextlib.suppress(OSError), source.open("rb") as old, target.open("xb") as new:  # most cannot
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        return True
    target.unlink(missing_ok=True)
    return False
