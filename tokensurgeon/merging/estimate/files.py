"""Files beside a merge: tensors by the names of the model's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tokensurgeon.errors import InputError

__all__ = ["check_file", "read_metadata", "read_tensor", "write_file"]


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a file that cannot be written or must not be lost."""
    if path.suffix != ".safetensors":
        raise InputError(f"--out {path} must be a file that ends in .safetensors")
    if path.is_dir():
        raise InputError(f"--out {path} is a directory; give a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; give another --out, or --overwrite")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"--out {path}: {parent} is not a directory that you can write to")


def write_file(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors beside the place and move them there, so that no half of a file is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(content, Path(work) / path.name, metadata=dict(metadata))
        (Path(work) / path.name).replace(path)


def read_tensor(path: str, name: str) -> torch.Tensor:
    """One tensor of a file, by the name that a merge gives it.

    A merge may call ``model.norm.weight`` what a checkpoint has as ``norm.weight``, or with a prefix before it.

    Raises:
        InputError: If there is no such file or no such tensor.
    """
    place = Path(path).expanduser()
    with _readable(path):
        names = _names(place, place.stat().st_mtime_ns)
        tails = [found for found in names if found.endswith(f".{name}") or name.endswith(f".{found}")]
        found = name if name in names else tails[0] if len(tails) == 1 else None
        if found is None:
            raise InputError(f"{path} has nothing for {name}. Make it from the models that are merged")
        with safe_open(place, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(found)
            return tensor


def read_metadata(path: str) -> dict[str, str]:
    """What a file says of the models that it was made from: ``ids``, ``weights`` (DAM), and others.

    Raises:
        InputError: If there is no such file.
    """
    with _readable(path), safe_open(Path(path).expanduser(), framework="pt") as file:
        return dict(file.metadata() or {})


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}). tokensurgeon fisher and dam make such files") from error


@lru_cache(maxsize=16)
def _names(path: Path, _changed: int) -> frozenset[str]:
    with safe_open(path, framework="pt") as file:
        return frozenset(file.keys())
