"""Move what is written to where it belongs, in one step, and so that a power cut finds the old or the new."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from pathlib import Path

from tokensurgeon.checkpoint.partials import INSIDE, hidden_place

__all__ = ["flush", "put_in_place"]

_HERE = -100
"""AT_FDCWD: paths count from the current directory."""
_EXCHANGE = 2
_UNABLE = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems answer that keep directories in another way, such as some that are mounted from elsewhere."""


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
            target.rename(aside / INSIDE)  # `hidden_place` puts it back if nothing takes its place
            work.rename(target)
            _sync(work.parent, aside, target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None, use_errno=True), "renameat2"):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(library.renameat2(_HERE, paths[0], _HERE, paths[1], ctypes.c_uint(_EXCHANGE)) == 0)


def _sync(*paths: Path) -> None:
    windows = sys.platform == "win32"  # where only files are flushed, that are open for writing
    for path in dict.fromkeys(paths):
        mode = path.stat().st_mode
        if windows and not (stat.S_ISREG(mode) and mode & stat.S_IWRITE):
            continue
        place = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
        try:
            _to_device(place)
        except OSError as error:
            if not (stat.S_ISDIR(mode) and error.errno in _UNABLE):
                raise
        finally:
            os.close(place)


def _to_device(place: int) -> None:
    """Flush an open file; on macOS through the cache of the device too, where that can be asked for."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(place, fcntl.F_FULLFSYNC)
            return
    os.fsync(place)
