"""Read and write text files in UTF-8, whatever the locale says: tokens and templates are seldom ASCII."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokensurgeon.errors import InputError

__all__ = ["read_json", "read_json_if_there", "read_text", "write_json", "write_text"]


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        InputError: If it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error


def write_text(path: Path, text: str) -> None:
    """Write text, with the same line ends on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file; it must be there.
        remedy: What to do where it is damaged, for the message.

    Raises:
        InputError: If it is not UTF-8, not valid JSON, or no object.
    """
    tail = f". {remedy}" if remedy else ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}){tail}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object{tail}")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """`read_json`, and nothing of a file that is not there."""
    return read_json(path) if path.is_file() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as people read it: indented, letters as they are."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
