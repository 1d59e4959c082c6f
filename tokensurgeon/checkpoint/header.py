"""Read the beginning of a safetensors file, which tensors it holds and where, and the index of shards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tokensurgeon.checkpoint.text import read_json, refuse_lfs_pointer
from tokensurgeon.errors import InputError

__all__ = [
    "DTYPES",
    "INDEX",
    "SINGLE",
    "TensorInfo",
    "expected_shards",
    "header_bytes",
    "listed_shards",
    "parse_header",
    "read_header",
    "shard_names",
]

INDEX = "model.safetensors.index.json"


SINGLE = "model.safetensors"


_LONGEST_HEADER = 100_000_000
"""As safetensors has it."""


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Floating dtypes that an embedding may have, by their name in a safetensors header."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: its file, dtype name, shape and absolute byte range."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.end - self.begin


def shard_names(index: Path) -> list[str]:
    """Names of the shards that an index lists.

    Raises:
        InputError: If the index is damaged.
    """
    content = read_json(index, "Fetch it again")
    try:
        names = sorted(set(content["weight_map"].values()))
        odd = [name for name in names if Path(name).name != name]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{index} is not a valid index: it needs a weight_map from tensors to names of files. Fetch it again"
        ) from error
    if odd:
        raise InputError(f"{index} lists {odd[0]!r}, which is not the name of a file beside it. Fetch it again")
    return names


def listed_shards(index: Path) -> list[str]:
    """Names of the shards that an index lists, all of which are there.

    Raises:
        InputError: If the index is damaged, or a shard is missing.
    """
    names = shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{index.parent}: {len(missing)} of the {len(names)} shards that {index.name} lists are missing "
            f"(first: {missing[0]}). Fetch them again"
        )
    return names


def expected_shards(directory: Path) -> list[str]:
    """Names of the safetensors that a model directory has, or would have if it were complete."""
    index = directory / INDEX
    return shard_names(index) if index.is_file() else [SINGLE]


def parse_header(path: Path, data: bytes, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Args:
        path: What the file is called.
        data: Its beginning, with the whole header.
        size: Bytes that it has.

    Raises:
        InputError: If the file is damaged or truncated.
    """
    length = int.from_bytes(data[:8], "little")
    if length > _LONGEST_HEADER:
        raise InputError(f"{path} is not a safetensors file: its header would have {length} bytes. Fetch it again")
    if size < 8 or length > size - 8:
        raise InputError(f"{path} is truncated: its header needs {length + 8} bytes, it has {size}. Fetch it again")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        metadata = header.pop("__metadata__", {})
        places = {}
        for name, entry in header.items():
            kind, shape, (begin, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            places[name] = (kind, shape, begin, last)
            if not 0 <= begin <= last or (kind in DTYPES and last - begin != DTYPES[kind].itemsize * math.prod(shape)):
                raise ValueError(f"{name} has shape {list(shape)} and bytes {begin} to {last}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a safetensors file ({error}). Fetch it again") from error
    start = 8 + length
    end = start + max((last for *_, last in places.values()), default=0)
    if end > size:
        raise InputError(f"{path} is truncated: it should have {end} bytes, it has {size}. Fetch it again")
    return {n: TensorInfo(path, d, shape, start + b, start + e) for n, (d, shape, b, e) in places.items()}, metadata


def header_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """A safetensors file up to where its tensors begin.

    Args:
        tensors: Name to dtype, shape and bytes, in the order in which they are stored.
        metadata: The file's own.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (kind, shape, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """`parse_header` of a file."""
    refuse_lfs_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        return parse_header(path, first + file.read(min(int.from_bytes(first, "little"), size)), size)
