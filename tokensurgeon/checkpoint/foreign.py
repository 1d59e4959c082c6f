"""Say which files of a model directory may be read and copied: it is foreign data, and must not lead out of itself.

A file is taken if it is a regular one whose resolved path stays inside the directory, or, in a snapshot of the hub's
cache, inside that model's own blobs. The directory itself may be a link. What a model depends on is refused where it
is anything else; what merely lies beside is left aside and named. Hard links cannot be told from files.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tokensurgeon.checkpoint.names import TEMPLATES, decides, is_weights
from tokensurgeon.errors import InputError

__all__ = ["Stranger", "copy_if_there", "guard", "is_taken", "links", "strangers", "taken_files", "taken_templates"]

log = logging.getLogger(__name__)

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


_REMEDY = "Put the file itself there, or remove this"


class Stranger(NamedTuple):
    """An entry of a model directory that is not taken.

    Attributes:
        path: Where it lies.
        what: What it is, such as ``a FIFO``.
        where: For a link, ``", to /its/target"``; not for what others read.
    """

    path: Path
    what: str
    where: str = ""


def guard(directory: Path, weights: str) -> None:
    """Refuse a directory whose model depends on something that may not be read; name what is left aside.

    Args:
        directory: The model.
        weights: Which are needed, see `tokensurgeon.checkpoint.resolve.resolve`.

    Raises:
        InputError: Naming the file, what it is, and the remedy.
    """
    try:
        entries, found = list(directory.iterdir()), strangers(directory)
    except OSError as error:
        raise InputError(f"{directory} cannot be read ({error.strerror})") from error
    for path, what, where in found:
        if decides(path, weights, entries) or path.parent.name == TEMPLATES:
            remedy = "Put the file itself there, or name the directory that it lies in" if where else _REMEDY
            raise InputError(f"{path} is {what}{where}. {remedy}")
    if others := [f"{path.name} ({what}{where})" for path, what, where in found if not is_weights(path)]:
        _tell(f"{directory}: left aside {', '.join(others)}")


def strangers(directory: Path) -> list[Stranger]:
    """What in a model directory, and in its folder of chat templates, is not taken; hidden entries never are."""
    found: list[Stranger] = []
    for path in sorted(directory.iterdir()):
        if not path.name.startswith("."):
            stranger = _stranger(path, directory)
            found += [stranger] if stranger else []
            if stranger is None and path.name == TEMPLATES and path.is_dir():
                found += [one for child in sorted(path.iterdir()) if (one := _stranger(child, directory))]
    return found


def links(directory: Path) -> Iterator[Path]:
    """Links in a directory and its folders, hidden ones included, but for those that the hub's cache itself makes."""
    blobs = _places(directory)[1:]
    for folder, folders, files in os.walk(directory):
        for name in sorted((*folders, *files)):
            path = Path(folder, name)
            if path.is_symlink() and not any(Path(os.path.realpath(path)).is_relative_to(place) for place in blobs):
                yield path


def is_taken(path: Path) -> bool:
    """Whether something in a model directory is there, and a file or folder that may be read."""
    return os.path.lexists(path) and _stranger(path, path.parent) is None


def taken_files(directory: Path) -> list[Path]:
    """The files of a model directory that may be read, but for hidden ones."""
    return [path for path in _taken(directory, directory) if not path.name.startswith(".")]


def taken_templates(directory: Path) -> list[Path]:
    """The templates in a model directory's folder of them that may be read."""
    folder = directory / TEMPLATES
    found = _taken(folder, directory) if is_taken(folder) and folder.is_dir() else []
    return [path for path in found if path.suffix == ".jinja"]


def copy_if_there(source: Path, target: Path) -> None:
    """Copy a file of a model directory, or its folder of chat templates; nothing where it may not be read."""
    if source.name == TEMPLATES:
        for path in taken_templates(source.parent):
            target.mkdir(exist_ok=True)
            shutil.copyfile(path, target / path.name)
    elif is_taken(source) and source.is_file():
        shutil.copyfile(source, target)


@cache
def _tell(line: str) -> None:
    """Say it once: directories are opened more often."""
    log.warning("%s", line)


def _taken(folder: Path, directory: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if _stranger(path, directory) is None and path.is_file()]


def _stranger(path: Path, directory: Path) -> Stranger | None:
    """What is wrong with an entry of a directory; nothing is opened for that."""
    if path.is_symlink():
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(place) for place in _places(directory)):
            return Stranger(path, "a link that leaves the directory", f", to {real}")
        if path.name == TEMPLATES:
            return Stranger(path, "a link, and no folder of its own")  # what it leads to is something else as well
    try:
        mode = path.stat().st_mode
    except OSError:
        return Stranger(path, "a link to nothing")
    what = next((name for of, name in _KINDS if of(mode)), None)
    return None if what is None else Stranger(path, what)


def _places(directory: Path) -> tuple[Path, ...]:
    """Where files of a model directory may lie."""
    root = directory.resolve()
    repository = root.parent.parent
    hub = root.parent.name == "snapshots" and repository.name.startswith("models--")
    return (root, repository / "blobs") if hub else (root,)
