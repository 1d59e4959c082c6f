"""Refuse files and values of a size that no honest model has, before anything is made of that size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.nn.modules.module import register_module_module_registration_hook

from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary.token import MOST_IDS

__all__ = ["LONGEST_TEMPLATE", "LONGEST_TOKENIZER", "few_modules", "refuse_charsmap", "refuse_long", "refuse_odd_sizes"]

LONGEST_JSON = 1 << 26
"""Bytes of settings and indexes. The largest index known, of 200,000 tensors, has 25 MB."""
LONGEST_TOKENIZER = 1 << 28
"""Bytes of a tokenizer; Gemma-3's ``tokenizer.json`` has 33 MB."""
LONGEST_TEMPLATE = 1 << 20
"""Characters of a chat template; long ones have 20,000."""
_MOST_MODULES = 500_000
"""Parts that a model class makes. switch-c-2048, with 2,048 experts in 15 layers, has 160,000."""
_SIZES = (
    (re.compile(r"(^|_)vocab_size(_|$)|^n_vocab$"), MOST_IDS),
    (re.compile(r"^hidden_size$"), 1 << 20),
    (re.compile(r"(^|_)(layers?|blocks|depths?)$"), 1 << 11),
    (re.compile(r"(^|_)(heads?|experts|labels|codebooks)$"), 1 << 16),
)
"""Keys of ``config.json`` and the most that they may be: classes make lists of that length. Research has gone to 1,000
layers, models in use have up to 130."""
_POSITIVE = ("vocab_size", "hidden_size", "num_hidden_layers")


def refuse_long(path: Path, limit: int = LONGEST_JSON) -> None:
    """Refuse a file by its length, without reading it.

    Raises:
        InputError: If it has more bytes.
        FileNotFoundError: If it is not there.
    """
    if (size := path.stat().st_size) > limit:
        raise InputError(f"{path} has {size:,} bytes, and no honest one more than {limit:,}. Fetch it again")


def refuse_charsmap(path: Path, table: bytes) -> None:
    """Refuse SentencePiece's table of characters if it says that it is longer than it is: so much memory is asked for.

    Raises:
        InputError: With both lengths.
    """
    size = int.from_bytes(table[:4], "little")
    if table and size > len(table) - 4:
        raise InputError(
            f"{path}: its precompiled_charsmap has {len(table):,} bytes, and says that a table of {size:,} follows. "
            "Fetch it again"
        )


def refuse_odd_sizes(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a parsed ``config.json`` whose numbers of tokens, layers and the like cannot be.

    Raises:
        InputError: Naming the key, its value and the limit.
    """
    for part, place in ((config, ""), (config.get("text_config") or {}, "text_config.")):
        for name in _POSITIVE:
            size = part.get(name)
            odd = not isinstance(size, int) or isinstance(size, bool) or size < 1
            if size is not None and odd and (name == "vocab_size" or not isinstance(size, list)):
                raise InputError(f"{path}: {place}{name} is {size!r}, and must be a whole number above 0")
    for place, name, value in _numbers(config, ""):
        for pattern, limit in _SIZES:
            if pattern.search(name) and value > limit:
                raise InputError(
                    f"{path}: {place} is {value}, and no honest model has more than {limit:,}. Mend it, or fetch the "
                    "file again"
                )


def _numbers(part: Any, place: str, name: str = "") -> Iterator[tuple[str, str, int]]:
    """Whole numbers with where they stand, and the key that they are of."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            yield from _numbers(value, f"{place}.{key}" if place else str(key), str(key))
    elif isinstance(part, list):
        for value in part:
            yield from _numbers(value, place, name)
    elif isinstance(part, int):
        yield place, name, part


@contextmanager
def few_modules(path: Path) -> Iterator[None]:
    """Stop a model class that makes too many parts: what several settings ask for together is seen only here.

    Raises:
        InputError: Naming the settings' file.
    """
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > _MOST_MODULES:
            raise InputError(
                f"{path} asks for more than {_MOST_MODULES:,} layers, experts and the like. Fetch it again"
            )

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
