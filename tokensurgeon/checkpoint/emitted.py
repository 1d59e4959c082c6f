"""Keep on disk which ids of a large tokenizer are emitted."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers

from tokensurgeon import vocabulary
from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.vocabulary.emitted import Flags

__all__ = ["remembered"]

_FEWEST = 20_000
"""Ids: smaller tokenizers are asked in less time than it takes to look."""


def remembered(key: str, size: int, find: Callable[[], Flags]) -> Flags:
    """Flags from the cache, or found and kept there; only found where there is no cache to write.

    Args:
        key: Digest of the tokenizer and its bytes.
        size: How many there are.
        find: Finds them.

    Returns:
        (size,) bool.
    """
    if size < _FEWEST:
        return find()
    path = cache_directory() / "emitted" / f"{key[:32]}-{_found_by()}.bin"
    with suppress(OSError):
        packed = np.fromfile(path, dtype=np.uint8)
        if len(packed) == -(-size // 8):
            return np.unpackbits(packed, count=size).astype(np.bool_)
    found = find()
    with suppress(OSError):  # such as a cache that nobody may write
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as work:  # a file is there whole, or not
            np.packbits(found).tofile(Path(work) / path.name)
            (Path(work) / path.name).replace(path)
    return found


@cache
def _found_by() -> str:
    """The library and our code, both of which decide."""
    code = "".join(file_digest(path) for path in sorted(Path(vocabulary.__file__).parent.rglob("*.py")))
    return f"{tokenizers.__version__}-{hashlib.sha256(code.encode()).hexdigest()[:8]}"
