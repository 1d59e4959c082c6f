"""Write and read the files that merges take beside models: tensors by the names of the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tokensurgeon.checkpoint.staging import staged
from tokensurgeon.errors import InputError

__all__ = ["SUFFIX", "read_metadata", "read_tensor", "write_file"]


SUFFIX = ".safetensors"


def write_file(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write safetensors; `check_target` says beforehand whether it may be done."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with staged(path, overwrite, suffix=SUFFIX) as work:
        save_file(content, work, metadata=dict(metadata))


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
