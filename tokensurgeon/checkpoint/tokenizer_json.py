"""Load tokenizer.json, and refuse what would take the process down, or its memory, where it is used."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.checkpoint.digest import file_state
from tokensurgeon.checkpoint.limits import LONGEST_TOKENIZER, refuse_charsmap, refuse_long
from tokensurgeon.checkpoint.text import refuse_lfs_pointer
from tokensurgeon.errors import InputError, gave_up
from tokensurgeon.vocabulary.vocabulary import refuse_far_ids

__all__ = ["load_tokenizer", "naming"]

_CHARSMAP = b"precompiled_charsmap"
_ESCAPED = re.compile(rb"\\u00[2-7]")
"""A letter that needs no escape: a key may be hidden so."""
_LONG_NUMBER = re.compile(rb":\s*[0-9]{7}")
_MOST_GROWTH = 100
"""Characters that the steps of a normalizer or decoder may make of one. Honest ones write ``...`` for an ellipsis."""
_MOST_PUT = 1000
"""Tokens that a post-processor may put around a text."""


def load_tokenizer(path: Path) -> Tokenizer:
    """The fast tokenizer of a ``tokenizer.json``.

    Raises:
        InputError: If tokenizers cannot read it, an id is too high, or a step makes too much of a text.
    """
    refuse_long(path, LONGEST_TOKENIZER)
    return _loaded(path, *file_state(path))


@lru_cache(maxsize=3)
def _loaded(path: Path, *_state: int) -> Tokenizer:
    """As `load_tokenizer`; nobody changes what it gives, and the same file is asked for several times."""
    data = path.read_bytes()
    if _CHARSMAP in data or _ESCAPED.search(data):
        _refuse_charsmaps(path, data)
    with naming(path):
        tokenizer = Tokenizer.from_buffer(data)
        if _LONG_NUMBER.search(data):
            refuse_far_ids(tokenizer.get_vocab().items())
        for part in ("normalizer", "decoder"):
            _refuse_growth(part, getattr(tokenizer, part))
        _refuse_long_affixes(tokenizer.model)
        _refuse_crowd(tokenizer.post_processor)
    return tokenizer


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let what tokenizers, or we, have to say about a tokenizer name its file.

    Raises:
        InputError: For what tokenizers raises, its panics included.
    """
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    except BaseException as error:
        if not (gave_up(error) or type(error) is ValueError):
            raise
        refuse_lfs_pointer(path)
        reason = str(error).removeprefix("Cannot instantiate Tokenizer from buffer: ")
        raise InputError(f"{path} cannot be read as a tokenizer ({reason}). Fetch it again") from error


def _refuse_charsmaps(path: Path, data: bytes) -> None:
    """Refuse tables of characters that would take all memory, before tokenizers reads them."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return  # tokenizers says more about it
    for part in _walk(content.get("normalizer") if isinstance(content, Mapping) else None):
        charsmap = part.get(_CHARSMAP.decode())
        if not isinstance(charsmap, str):
            continue
        try:
            table = base64.b64decode(charsmap)
        except (binascii.Error, ValueError):
            continue
        refuse_charsmap(path, table)


def _refuse_growth(part: str, steps: Any) -> None:
    growth, before, written = 1, 0, ""
    for step in _walk(_parsed(steps)):
        if step.get("type") == "Replace":
            literal = step["pattern"].get("String")
            times = max(1, len(step["content"]) // len(literal or "."))  # a regular expression may match one character
            growth = growth * times if literal is None or literal in written else max(growth, times)
            written += step["content"]
        before += len(step.get("prepend") or "")
    if max(growth, before) > _MOST_GROWTH:
        raise InputError(
            f"its {part} can make {max(growth, before):,} characters of one, and no honest one more than "
            f"{_MOST_GROWTH}. Fetch it again"
        )


def _refuse_long_affixes(model: Any) -> None:
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        affix = getattr(model, name, None) or ""
        if len(affix) > _MOST_GROWTH:
            raise InputError(
                f"its {name} has {len(affix):,} characters, and no honest one more than {_MOST_GROWTH}. Fetch it again"
            )


def _refuse_crowd(processor: Any) -> None:
    put = 0
    for step in _walk(_parsed(processor)):
        special = step.get("special_tokens")
        if isinstance(special, Mapping):
            put += len(step["single"]) + len(step["pair"]) + sum(len(token["ids"]) for token in special.values())
    if put > _MOST_PUT:
        raise InputError(
            f"its post-processor puts {put:,} tokens around a text, and no honest one more than {_MOST_PUT}. Fetch it "
            "again"
        )


def _parsed(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _walk(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every table in a section."""
    if isinstance(node, Mapping):
        yield node
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _walk(value)
