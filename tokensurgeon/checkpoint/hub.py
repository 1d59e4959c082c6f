"""Fetch the tensors with one row per token of a model on a hub, by byte ranges, into a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.cache import cache_directory, copy_small_files, is_kept
from tokensurgeon.checkpoint.durable import flush
from tokensurgeon.checkpoint.header import INDEX, SINGLE, TensorInfo, expected_shards, header_bytes, parse_header
from tokensurgeon.checkpoint.layout import find_vocabulary_tensors
from tokensurgeon.errors import InputError

__all__ = ["NoRangesError", "fetch_vocabulary"]

_FIRST = 1 << 16
_PIECE = 1 << 24
"""Bytes a request; what has been fetched is lost up to this much where a download is interrupted."""


class NoRangesError(Exception):
    """The server answers a request for a range with something else, or has no safetensors."""


def fetch_vocabulary(repository: str, small: Path) -> Path:
    """A directory with the model's small files, and safetensors that hold its embedding and LM head only.

    An interrupted download continues where it was.

    Args:
        repository: Hub id.
        small: The snapshot with configuration and tokenizer, named after its commit.

    Raises:
        NoRangesError: If ranges cannot be had; whole files may be.
        InputError: If the model is not one that can be used.
    """
    from filelock import FileLock
    from huggingface_hub import HfFileSystem

    commit = small.name
    out = cache_directory() / "hub" / repository.replace("/", "--") / "snapshots" / commit
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{commit}.partial")
    with FileLock(out.parent / f".{commit}.lock"):
        if is_kept(out):
            return out
        work.mkdir(exist_ok=True)
        server = HfFileSystem()
        tensors: dict[str, TensorInfo] = {}
        for shard in expected_shards(small):
            tensors |= _header(server, f"{repository}@{commit}/{shard}")
        layout = find_vocabulary_tensors(small, tensors)
        _fetch(server, {name: tensors[name] for name in (layout.embedding, layout.head, layout.bias) if name}, work)
        copy_small_files(small, work, ("*.safetensors", INDEX))
        flush(work)
        work.rename(out)
    return out


def _header(server: Any, path: str) -> dict[str, TensorInfo]:
    size = server.info(path)["size"]
    data = b"".join(_ranges(server, path, 0, min(_FIRST, size)))
    needed = 8 + int.from_bytes(data[:8], "little")
    if len(data) < needed <= size:
        data += b"".join(_ranges(server, path, len(data), needed))
    tensors, _ = parse_header(Path(path), data, size)
    return tensors


def _fetch(server: Any, wanted: dict[str, TensorInfo], work: Path) -> None:
    """Write the tensors as one safetensors file, from where it ends already."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    path = work / SINGLE
    header = header_bytes({n: (info.dtype, info.shape, info.nbytes) for n, info in wanted.items()})
    total = len(header) + sum(info.nbytes for info in wanted.values())
    if not _begins_with(path, header) or path.stat().st_size > total:
        path.write_bytes(header)
    done, before = path.stat().st_size, len(header)
    columns = ("embedding and head", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=Console(stderr=True), disable=bool(are_progress_bars_disabled()))
    with path.open("ab") as file, shown:
        bar = shown.add_task("", total=total, completed=done)
        for info in wanted.values():
            for piece in _ranges(server, str(info.file), info.begin + max(0, done - before), info.end):
                file.write(piece)
                file.flush()
                shown.update(bar, advance=len(piece))
            before += info.nbytes


def _ranges(server: Any, path: str, begin: int, end: int) -> Iterator[bytes]:
    if begin >= end:
        return
    with server.open(path, "rb", block_size=_PIECE, cache_type="none") as file:
        for start in range(begin, end, _PIECE):
            wanted = min(_PIECE, end - start)
            file.seek(start)
            data = file.read(wanted)
            if len(data) > wanted:
                raise NoRangesError(f"{path}: the server answers with whole files")
            if len(data) < wanted:
                raise InputError(f"{path}: the server sent {len(data)} of {wanted} bytes. Run the same command again")
            yield data


def _begins_with(path: Path, header: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header
