"""Turn ``pytorch_model*.bin`` into safetensors: unpickled once, tensors only, kept in a cache."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from tokensurgeon.checkpoint.cache import cache_directory, copy_small_files, is_kept, kept
from tokensurgeon.checkpoint.foreign import taken_files, taken_templates
from tokensurgeon.checkpoint.header import INDEX, listed_shards
from tokensurgeon.checkpoint.text import refuse_lfs_pointer, write_json
from tokensurgeon.errors import InputError

__all__ = ["PICKLED", "as_safetensors", "load_pickled", "tensor_shapes"]

log = logging.getLogger(__name__)

PICKLED = "pytorch_model*.bin"
_INDEX = "pytorch_model.bin.index.json"


def as_safetensors(directory: Path) -> Path:
    """A directory with the same files, but safetensors; the directory itself where it has such already.

    Args:
        directory: A model directory.

    Raises:
        InputError: If a shard is missing, damaged, or holds more than tensors.
    """
    if any(directory.glob("*.safetensors")) or not any(directory.glob(PICKLED)):
        return directory
    shards = _shards(directory)
    others = [*taken_files(directory), *taken_templates(directory)]
    seen = [*shards, *(path for path in others if path not in shards)]
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in seen]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]
    out = cache_directory() / "bin" / f"{directory.resolve().name}-{key}"
    if not is_kept(out):
        log.warning("converting %s to safetensors (once; kept in %s)", directory / PICKLED, out)
        with kept(out) as work:
            _convert(directory, shards, work)
    return out


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a pickled file, by name.

    Raises:
        InputError: If it is damaged, or holds more than tensors.
    """
    return {name: tuple(tensor.shape) for name, tensor in load_pickled(path).items()}


def _shards(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if not index.is_file():
        shards = sorted(directory.glob(PICKLED))
        if len(shards) > 1:
            raise InputError(f"{directory} has {len(shards)} files {PICKLED}, but no {_INDEX}. Fetch it again")
        return shards
    return [directory / name for name in listed_shards(index)]


def _convert(directory: Path, shards: list[Path], work: Path) -> None:
    weight_map = {}
    for number, path in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {key: tensor.clone().contiguous() for key, tensor in load_pickled(path).items()}
        save_file(tensors, work / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
    if len(shards) > 1:
        write_json(work / INDEX, {"metadata": {}, "weight_map": weight_map})
    copy_small_files(directory, work, ("*.bin", _INDEX))


def load_pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled file, by name.

    Raises:
        InputError: If it is damaged, or holds more than tensors.
    """
    refuse_lfs_pointer(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged or holds more than tensors, and loading that could run anything. Fetch it again, or "
            "convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, MemoryError) as error:
        said = "" if isinstance(error, LookupError) else str(error)
        reason = (said.splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged ({reason}). Fetch it again") from error
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise InputError(f"{path} is not a table of tensors. Convert it to safetensors first")
    return content
