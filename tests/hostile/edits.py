"""Ways to spoil a file: functions from its bytes to others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["ODD", "Edit", "gone", "header", "padded", "put", "raw", "shard", "some", "truncated"]

Edit = Callable[[bytes], bytes]

ODD: dict[str, Any] = {
    "null": None, "a string": "x", "a number in a string": "2", "minus one": -1, "zero": 0, "a fraction": 0.5,
    "true": True, "a list": [], "a table": {}, "a list of tables": [{}], "NaN": float("nan"),
    "infinity": float("inf"), "10^12": 10**12, "10^30": 10**30, "a lone surrogate": "\ud800",
}  # fmt: skip
"""Values that stand for a kind each."""


def some(keys: Iterable[str], every: int = 3) -> Iterator[tuple[str, str, Any]]:
    """Each key with some of the odd values, by turns: key, the value's name, the value."""
    for number, key in enumerate(keys):
        for name in list(ODD)[number % every :: every]:
            yield key, name, ODD[name]


def raw(data: bytes | str) -> Edit:
    """Other content."""
    return lambda _: data.encode() if isinstance(data, str) else data


def padded(size: int) -> Edit:
    """So many spaces more."""
    return lambda data: data + b" " * size


def truncated(share: float) -> Edit:
    """The beginning of a file."""
    return lambda data: data[: int(len(data) * share)]


def put(path: str, value: Any) -> Edit:
    """A value at a place such as ``model.vocab`` or ``added_tokens.0.id`` of a JSON file."""
    return _json(path, lambda parent, key: parent.__setitem__(key, value))


def gone(path: str) -> Edit:
    """No value at a place."""
    return _json(path, lambda parent, key: parent.pop(key))


def header(edit: Edit) -> Edit:
    """A safetensors file with another header."""

    def spoil(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        text = edit(data[8 : 8 + length])
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return spoil


def shard(content: dict[str, Any] | str, size: int = 64) -> Edit:
    """A safetensors file with this header and so many bytes of tensors."""
    text = (content if isinstance(content, str) else json.dumps(content)).encode()
    return raw(len(text).to_bytes(8, "little") + text + bytes(size))


def _json(path: str, change: Callable[[Any, Any], object]) -> Edit:
    def spoil(data: bytes) -> bytes:
        content = json.loads(data)
        *above, last = path.split("/")
        parent = content
        for name in above:
            parent = parent[int(name)] if isinstance(parent, list) else parent[name]
        change(parent, int(last) if isinstance(parent, list) else last)
        return json.dumps(content).encode()

    return spoil
