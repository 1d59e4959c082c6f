"""Move what is written to where it belongs, in one step, and so that a power cut finds the old or the new."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from tokensurgeon.checkpoint.partials import INSIDE, hidden_place

__all__ = ["flush", "put_in_place"]

_HERE = -100
"""AT_FDCWD: paths count from the current directory."""
_EXCHANGE = 2


def flush(place: Path) -> None:
    """Have a file, or a directory with all that is in it, written to the device."""
    if place.is_dir():
        _sync(*sorted(place.rglob("*"), reverse=True))
    _sync(place)


def put_in_place(work: Path, target: Path) -> None:
    """Let a file or directory take the target's place; what was there is then where ``work`` was, or gone.

    What is written is flushed before it is moved, and the move before it is called done. Where a directory replaces
    another, Linux exchanges both in one step. Elsewhere it takes two renames, between which neither is there;
    `tokensurgeon.checkpoint.partials.recover` mends what a kill or a power cut leaves then.

    A power cut at any time leaves the old output or the new one, whole, if the device keeps what it says it keeps; and
    perhaps a hidden directory, which the next run removes. Once this has returned it is the new one.
    """
    flush(work)
    if not target.is_dir():
        work.replace(target)
        _sync(work.parent, target.parent)
    elif _exchange(work, target):
        _sync(work.parent, target.parent)
    else:
        with hidden_place(target, "old") as aside:
            target.rename(aside / INSIDE)
            try:
                work.rename(target)
            except BaseException:
                (aside / INSIDE).rename(target)
                raise
            _sync(work.parent, aside, target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None, use_errno=True), "renameat2"):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(library.renameat2(_HERE, paths[0], _HERE, paths[1], ctypes.c_uint(_EXCHANGE)) == 0)


def _sync(*paths: Path) -> None:
    for path in paths:
        if sys.platform == "win32" and path.is_dir():
            continue  # directories cannot be opened there
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
