"""Say whether what stands in an output's place may be replaced: only what a tool wrote there, as it wrote it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.foreign import is_taken
from tokensurgeon.checkpoint.names import TEMPLATES, is_model, is_usual
from tokensurgeon.errors import InputError

__all__ = ["refuse_loss"]

_MANIFEST = "tokensurgeon.json"
_HUB = "huggingface"
"""What hub clients keep in a model directory's ``.cache``."""
_SHOWN = 3


def refuse_loss(target: Path, suffix: str | None, option: str) -> None:
    """Refuse to replace what is no model, or holds more than models do.

    Args:
        target: A directory that is not empty, or a file.
        suffix: Of the file; None for a directory.
        option: What the command line calls the target.

    Raises:
        InputError: Naming what stands there.
    """
    if suffix is not None:
        if not _is_of_kind(target, suffix):
            raise InputError(
                f"{target} is no {suffix} file, and --overwrite replaces nothing else; give another {option}"
            )
        return
    entries = sorted(target.iterdir())
    if not is_model(entries):
        raise InputError(
            f"{target} is no model (it holds {_listed(entries)}), and --overwrite replaces nothing else; give another "
            f"{option}, or remove it yourself"
        )
    recorded = _recorded(target)
    if others := [path for path in entries if not _is_ours(path, recorded)]:
        raise InputError(
            f"{target} holds {_listed(others)} beside a model, and --overwrite would delete that too; move it away, or "
            f"give another {option}"
        )


def _is_ours(path: Path, recorded: dict[str, Any]) -> bool:
    """Whether an entry is one that tools write into model directories, or that a manifest tells of."""
    if path.is_symlink() or path.is_file():
        return is_usual(path) or (is_taken(path) and recorded.get(path.name) == _digest(path))
    if not path.is_dir():
        return False
    inside = list(path.iterdir())
    if path.name == TEMPLATES:
        return all(child.suffix == ".jinja" and child.is_file() for child in inside)
    return path.name == ".cache" and all(child.name == _HUB for child in inside)


def _recorded(target: Path) -> dict[str, Any]:
    """Digests of the files with unusual names that an output was written with."""
    path = target / _MANIFEST
    try:
        found = json.loads(path.read_text("utf-8"))["side_files"] if is_taken(path) else {}
    except (ValueError, LookupError, TypeError):  # a damaged manifest vouches for nothing
        return {}
    return found if isinstance(found, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_of_kind(path: Path, suffix: str) -> bool:
    """Whether a file begins as its name says; an empty one is no loss."""
    with path.open("rb") as file:
        first = file.read(9)
    if suffix == ".gguf":
        return not first or first.startswith(b"GGUF")
    return not first or (first[8:] == b"{" and int.from_bytes(first[:8], "little") < path.stat().st_size)


def _listed(entries: list[Path]) -> str:
    names = ", ".join(path.name for path in entries[:_SHOWN])
    return names + (f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else "")
