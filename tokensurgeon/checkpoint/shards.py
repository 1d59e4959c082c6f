"""Read and write safetensors files by byte ranges: untouched tensors are copied as bytes, whatever their dtype."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from tokensurgeon.checkpoint.foreign import guard
from tokensurgeon.checkpoint.header import DTYPES, INDEX, SINGLE, TensorInfo, header_bytes, listed_shards, read_header
from tokensurgeon.checkpoint.linking import Link, place
from tokensurgeon.checkpoint.text import write_json
from tokensurgeon.errors import InputError

__all__ = ["Checkpoint"]

_CHUNK = 1 << 24

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The safetensors files of a model directory.

    Attributes:
        directory: The model directory.
        tensors: By name, in file order.
        shards: File name to the names of its tensors.
        metadata: File name to the header's ``__metadata__``.
    """

    directory: Path
    tensors: Mapping[str, TensorInfo]
    shards: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, Mapping[str, str]]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read the headers of all shards.

        Raises:
            InputError: If there are no safetensors, a shard is missing or lies elsewhere, or a header is damaged.
        """
        if directory.is_dir():
            guard(directory, "all")  # once more: not every directory was resolved
        tensors: dict[str, TensorInfo] = {}
        shards: dict[str, tuple[str, ...]] = {}
        metadata: dict[str, Mapping[str, str]] = {}
        for name in _shards_of(directory):
            found, metadata[name] = read_header(directory / name)
            tensors |= found
            shards[name] = tuple(found)
        return cls(directory, tensors, shards, metadata)

    def read(self, name: str) -> torch.Tensor:
        """One whole tensor, on the CPU, in its stored dtype."""
        info = self.tensors[name]
        try:
            with safe_open(info.file, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor
        except SafetensorError as error:
            raise InputError(f"{info.file}: {name} cannot be read ({error}). Fetch the file again") from error

    def chunks(self, name: str, start: int = 0) -> Iterator[memoryview]:
        """A tensor's stored bytes from ``start`` on, piece by piece; each is overwritten by the next."""
        info = self.tensors[name]
        left = info.nbytes - start
        room = memoryview(bytearray(min(_CHUNK, max(left, 1))))
        with info.file.open("rb") as file:
            file.seek(info.begin + start)
            while left:
                read = file.readinto(room[: min(_CHUNK, left)])
                if not read:
                    raise InputError(f"{info.file} ends {left} bytes before the end of {name}. Fetch it again")
                left -= read
                yield room[:read]

    def same(self, other: Checkpoint, name: str) -> bool:
        """Whether both store the same bytes under a name."""
        a, b = self.tensors[name], other.tensors[name]
        if a.nbytes != b.nbytes:
            return False
        if a.begin == b.begin and a.file.samefile(b.file):
            return True  # linked
        return all(_equal(x, y) for x, y in zip(self.chunks(name), other.chunks(name), strict=True))

    def digest(self, name: str) -> str:
        """SHA-256 of a tensor's stored bytes."""
        sha = hashlib.sha256()
        for piece in self.chunks(name):
            sha.update(piece)
        return sha.hexdigest()

    def write(
        self,
        out: Path,
        replaced: Mapping[str, torch.Tensor],
        dropped: frozenset[str] = frozenset(),
        dtype: torch.dtype | None = None,
        link: Link = "auto",
    ) -> frozenset[str]:
        """Write the same shards with some tensors replaced, added or dropped.

        Args:
            out: An existing directory.
            replaced: New tensors; one whose name is not in the checkpoint is added to the shard
                that holds the first replaced tensor.
            dropped: Names that are not written.
            dtype: Convert every floating tensor to this; by default nothing is converted.
            link: How shards of which nothing changes get there, see `tokensurgeon.checkpoint.linking`.

        Returns:
            Names of the shards that share their blocks with the old ones.
        """
        added = [name for name in replaced if name not in self.tensors]
        home = next(self.tensors[name].file.name for name in replaced if name in self.tensors)
        weight_map: dict[str, str] = {}
        shared, total = set(), 0
        for shard, present in self.shards.items():
            names = [n for n in present if n not in dropped] + (added if shard == home else [])
            weight_map.update(dict.fromkeys(names, shard))
            if dtype is None and not (set(names) & set(replaced)) and len(names) == len(present):
                if place(self.directory / shard, out / shard, link):
                    shared.add(shard)
                total += sum(self.tensors[name].nbytes for name in names)
            elif names:
                total += self._rewrite(out / shard, names, replaced, dtype, self.metadata[shard])
        if list(self.shards) != [SINGLE]:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(out / INDEX, index)
        return frozenset(shared)

    def _rewrite(
        self,
        path: Path,
        names: list[str],
        replaced: Mapping[str, torch.Tensor],
        dtype: torch.dtype | None,
        metadata: Mapping[str, str],
    ) -> int:
        """Write one shard; the bytes of its tensors."""
        types = {name: self._target_type(name, replaced, dtype) for name in names}
        sizes = {name: (*of, _nbytes(*of, self.tensors.get(name))) for name, of in types.items()}
        with path.open("wb") as file:
            file.write(header_bytes(sizes, metadata))
            for name, (kind, _) in types.items():
                if name in replaced:
                    _write_tensor(file, replaced[name].to(DTYPES[kind]))
                elif kind == self.tensors[name].dtype:
                    self._copy(name, file)
                else:
                    _write_tensor(file, self.read(name).to(DTYPES[kind]))
        return sum(size for *_, size in sizes.values())

    def _copy(self, name: str, file: BinaryIO) -> None:
        """Append a tensor's stored bytes; by the kernel, where it can do that from file to file."""
        info = self.tensors[name]
        begin = info.begin
        if hasattr(os, "copy_file_range"):
            file.flush()
            with info.file.open("rb") as source, contextlib.suppress(OSError):  # across file systems, for one
                while begin < info.end:
                    done = os.copy_file_range(source.fileno(), file.fileno(), info.end - begin, offset_src=begin)
                    if not done:
                        break
                    begin += done
            file.seek(0, os.SEEK_END)
        for piece in self.chunks(name, begin - info.begin):
            file.write(piece)

    def _target_type(
        self, name: str, replaced: Mapping[str, torch.Tensor], dtype: torch.dtype | None
    ) -> tuple[str, tuple[int, ...]]:
        if name in replaced:
            tensor = replaced[name]
            return _NAMES[dtype or tensor.dtype], tuple(tensor.shape)
        info = self.tensors[name]
        return (_NAMES[dtype] if dtype and info.dtype in DTYPES else info.dtype), info.shape


def _equal(a: memoryview, b: memoryview) -> bool:
    """As arrays: a memoryview compares byte by byte."""
    return bool(np.array_equal(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)))


def _shards_of(directory: Path) -> list[str]:
    if (directory / INDEX).is_file():
        return listed_shards(directory / INDEX)
    if (directory / SINGLE).is_file():
        return [SINGLE]
    other = sorted(p.name for p in directory.glob("*.bin")) if directory.is_dir() else []
    hint = f" It has {other[0]}: convert it to safetensors first" if other else ""
    raise InputError(f"{directory} holds no {SINGLE} and no {INDEX}.{hint}")


def _nbytes(kind: str, shape: tuple[int, ...], info: TensorInfo | None) -> int:
    if info is not None and info.dtype == kind and info.shape == shape:
        return info.nbytes
    return DTYPES[kind].itemsize * int(torch.Size(shape).numel())


def _write_tensor(file: Any, tensor: torch.Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    for start in range(0, len(flat), _CHUNK):
        file.write(flat[start : start + _CHUNK].numpy().data)
