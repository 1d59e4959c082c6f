"""Say whether what stands in an output's place may be replaced: only what a tool wrote there, as it wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.foreign import is_taken
from tokensurgeon.checkpoint.names import MANIFEST, TEMPLATES, is_usual, is_weights
from tokensurgeon.checkpoint.text import read_json
from tokensurgeon.errors import InputError

__all__ = ["refuse_loss"]

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
            what = "file of scores" if suffix == ".json" else f"{suffix} file"
            raise InputError(f"{target} is no {what}, and --overwrite replaces nothing else; give another {option}")
        return
    entries = sorted(target.iterdir())
    manifest, configured = _object(target / MANIFEST), _is_configured(target, entries)
    if not configured and not isinstance(manifest.get("format"), int):
        raise InputError(
            f"{target} is no model (it holds {_listed(entries)}), and --overwrite replaces nothing else; give another "
            f"{option}, or remove it yourself"
        )
    if others := [path for path in entries if not _is_ours(path, manifest, configured)]:
        raise InputError(
            f"{target} holds {_listed(others)} beside a model, and --overwrite would delete that too; move it away, or "
            f"give another {option}"
        )


def _is_configured(target: Path, entries: list[Path]) -> bool:
    """Whether settings say that a directory holds a model, of which weights are there, or an adapter."""
    model, adapter = (_object(target / name) for name in ("config.json", "adapter_config.json"))
    named = isinstance(model.get("model_type"), str) or isinstance(model.get("architectures"), list)
    return (named and any(is_weights(path) for path in entries)) or isinstance(adapter.get("peft_type"), str)


def _is_ours(path: Path, manifest: dict[str, Any], configured: bool) -> bool:
    """Whether an entry is one that tools write into model directories, or that a manifest tells of."""
    if path.is_symlink() or path.is_file():
        if path.suffix == ".gguf" and "sha256" in manifest:  # of an output: we write none into it
            return False
        if is_usual(path, configured=configured):
            return True
        recorded = manifest.get("side_files")
        carried = recorded.get(path.name) if isinstance(recorded, dict) else None
        return carried is not None and is_taken(path) and carried == file_digest(path)
    if not path.is_dir():
        return False
    inside = list(path.iterdir())
    if path.name == TEMPLATES:
        return all(child.suffix == ".jinja" and child.is_file() for child in inside)
    return path.name == ".cache" and all(child.name == _HUB for child in inside)


def _object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is damaged, or not there, and vouches for nothing."""
    try:
        return read_json(path) if is_taken(path) and path.is_file() else {}
    except InputError:
        return {}


def _is_of_kind(path: Path, suffix: str) -> bool:
    """Whether a file begins as its name says; an empty one is no loss."""
    with path.open("rb") as file:
        first = file.read(9)
    if suffix == ".gguf":
        return not first or first.startswith(b"GGUF")
    if suffix == ".json":
        scores = _object(path).values()
        return not first or (bool(scores) and all(isinstance(s, dict) and "mean_bits_per_byte" in s for s in scores))
    return not first or (first[8:] == b"{" and int.from_bytes(first[:8], "little") < path.stat().st_size)


def _listed(entries: list[Path]) -> str:
    names = ", ".join(path.name for path in entries[:_SHOWN])
    return names + (f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else "")
