"""Read and write text files in UTF-8, whatever the locale says: tokens and templates are seldom ASCII."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.limits import LONGEST_JSON, refuse_long
from tokensurgeon.errors import InputError

__all__ = [
    "decoded",
    "decoded_parts",
    "read_json",
    "read_json_if_there",
    "read_text",
    "refuse_lfs_pointer",
    "text_lines",
    "write_json",
    "write_text",
]  # fmt: skip

_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER = 1024
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_LOOKED_AT = 1000
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""JSON can spell one half of a character, which no text can hold."""


def decoded(data: bytes, name: str | Path, *, whole: bool = True) -> str:
    """What a text file's bytes say, without a byte order mark.

    Args:
        data: The bytes.
        name: What the file is called, for the message.
        whole: Whether they go to the file's end; otherwise a character that is cut there is left out.

    Raises:
        InputError: If it is not UTF-8. UTF-16 is called so, with a mark or without: most of its English is zero bytes.
    """
    return "".join(decoded_parts([data], name, whole=whole))


def decoded_parts(data: Iterable[bytes], name: str | Path, *, whole: bool = True) -> Iterator[str]:
    """`decoded` of a file that is read in parts; the first, unless it is the only one, has a thousand bytes at least.

    Raises:
        InputError: As `decoded`, at the part that shows it.
    """
    decoder, first, done = codecs.getincrementaldecoder("utf-8")(), True, 0
    for part in itertools.chain(data, [b""]):
        if not done and (part.startswith(_WIDE) or part[:_LOOKED_AT].count(0) > len(part[:_LOOKED_AT]) // 4):
            raise InputError(f"{name} is not UTF-8, it looks like UTF-16. Save it as UTF-8")
        begun = done - len(decoder.getstate()[0])  # of a character that goes on here
        try:
            text = decoder.decode(part, final=whole and not part)
        except UnicodeDecodeError as error:
            place = begun + error.start
            raise InputError(f"{name} is not UTF-8 ({error.reason} at byte {place}). Save it as UTF-8") from error
        done += len(part)
        if text:
            yield text.removeprefix("\ufeff") if first else text
            first = False


def read_text(path: Path) -> str:
    """A file's text, without a byte order mark, whose lines end as on Unix.

    Raises:
        InputError: If it is not UTF-8.
    """
    return decoded(path.read_bytes(), path).replace("\r\n", "\n")


def text_lines(path: Path) -> list[str]:
    """A file's lines: they end at newlines, and not at the other characters that ``str.splitlines`` knows.

    Raises:
        InputError: If it is not UTF-8.
    """
    return read_text(path).removesuffix("\n").split("\n")


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse a file that only says where git-LFS keeps the real one.

    Raises:
        InputError: If it is one; nothing is said of files that are missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER and path.stat().st_size <= _LONGEST_POINTER
    except OSError:
        return
    if is_pointer:
        raise InputError(f"{path} is a git-LFS pointer, not the file itself. Run git lfs pull in {path.parent}")


def write_text(path: Path, text: str) -> None:
    """Write text, with the same line ends on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path, remedy: str = "", limit: int = LONGEST_JSON) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file; it must be there.
        remedy: What to do where it is damaged, for the message.
        limit: Bytes that it may have.

    Raises:
        InputError: If it cannot be read, is too long, not UTF-8, not valid JSON, no object, or a git-LFS pointer.
        FileNotFoundError: If it is not there.
    """
    tail = f". {remedy}" if remedy else ""
    try:
        refuse_long(path, limit)
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if _HALF.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # raises a ValueError where a half stands alone
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        refuse_lfs_pointer(path)
        decoded(path.read_bytes(), path)  # raises where it is no UTF-8
        what = f"is not valid JSON ({error})" if path.stat().st_size else "is empty"
        raise InputError(f"{path} {what}{tail}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object{tail}")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """`read_json`, and nothing of a file that is not there."""
    return read_json(path) if path.exists() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as people read it: indented, letters as they are."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
