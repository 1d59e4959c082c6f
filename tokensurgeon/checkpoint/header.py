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
_MOST_TENSORS = 500_000
"""In a file. Kimi-K2 has 200,000 in 62 files."""
_MOST_SIDES = 64
_LARGEST = 1 << 63
_SHOWN = 60
_LONGEST_NAME = 200
"""Characters of a shard's name; file systems end at 255 bytes."""


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Floating dtypes that an embedding may have, by their name in a safetensors header."""
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Of all dtypes that safetensors knows."""


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
        odd = [name[:_SHOWN] for name in names if Path(name).name != name or len(name) > _LONGEST_NAME]
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
    if (count := data.count(b'"data_offsets"', 0, 8 + length)) > _MOST_TENSORS:
        raise InputError(
            f"{path} lists {count:,} tensors, and no honest file more than {_MOST_TENSORS:,}. Fetch it again"
        )
    try:
        header, metadata = _parsed(data[8 : 8 + length])
        found = {name: _place(name, entry) for name, entry in header.items()}
        end = _end(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a safetensors file ({error}). Fetch it again") from error
    start = 8 + length
    if start + end > size:
        raise InputError(f"{path} is truncated: it should have {start + end} bytes, it has {size}. Fetch it again")
    if start + end < size:
        raise InputError(f"{path} has {size - start - end} bytes behind its last tensor. Fetch it again")
    return {n: TensorInfo(path, d, shape, start + b, start + e) for n, (d, shape, b, e) in found.items()}, metadata


def _parsed(text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """What a header says of tensors and of the file."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("it has a name twice")
        return made

    header = json.loads(text, object_pairs_hook=table)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    "".join(header).encode()  # raises where a name holds one half of a character
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ is no table of texts")
    return header, metadata


def _place(name: str, entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    """A tensor's dtype, shape, begin and end, as far as these can be."""
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    fits = isinstance(kind, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2
    if fits and kind in _BITS:
        fits = 8 * (offsets[1] - offsets[0]) == _BITS[kind] * math.prod(shape)
    if not fits or offsets[0] > offsets[1]:
        bytes_ = " to ".join(map(str, offsets)) if isinstance(offsets, list) else offsets
        shown = (str(value)[:_SHOWN] for value in (name, kind, shape, bytes_))
        raise ValueError("{} of dtype {} has shape {} and bytes {}".format(*shown))
    return kind, tuple(shape), offsets[0], offsets[1]


def _are_sizes(numbers: Any) -> bool:
    """Whether these are sides of a tensor or places in a file."""
    few = isinstance(numbers, list) and len(numbers) <= _MOST_SIDES
    return few and all(type(number) is int and 0 <= number < _LARGEST for number in numbers)


def _end(places: Mapping[str, tuple[str, tuple[int, ...], int, int]]) -> int:
    """Where the last tensor ends; they lie side by side, each byte is of one."""
    at = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda place: place[1][2:]):
        if begin != at:
            raise ValueError(f"{name} begins at byte {begin}, and {at} bytes come before it")
        at = end
    return at


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
        return parse_header(path, first + file.read(min(int.from_bytes(first, "little"), size, _LONGEST_HEADER)), size)
