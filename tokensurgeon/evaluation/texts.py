"""Read and cut text to measure on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokensurgeon.checkpoint.text import decoded
from tokensurgeon.errors import InputError

__all__ = ["load_texts", "python_text", "split_bytes"]

CHUNK_BYTES = 2048


def python_text(n_bytes: int = 32_768, part: int = 0) -> str:
    """English that every Python carries: pieces of the language reference (``pydoc_data.topics``).

    Args:
        n_bytes: About how much.
        part: 0 to 3; different parts share no text.
    """
    from pydoc_data.topics import topics

    names = sorted(topics)[part::4]
    share = max(CHUNK_BYTES, n_bytes // 16)
    wanted, text = n_bytes, ""
    for name in names[:: max(1, len(names) // 16)]:
        text += topics[name][: min(share, wanted)] + "\n"
        wanted = n_bytes - len(text)
        if wanted <= 0:
            break
    return text


def load_texts(paths: Sequence[Path], limit: int | None = None) -> dict[str, str]:
    """Read text files, at most ``limit`` bytes of each; Python's own text where none is given.

    Raises:
        InputError: If a file is missing, empty, or not UTF-8.
    """
    if not paths:
        return {"python-topics": python_text(limit or 32_768)}
    texts = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read() if limit is None else file.read(limit)
        except OSError as error:
            raise InputError(f"text file {path} cannot be read ({error.strerror})") from error
        text = decoded(data, f"text file {path}", whole=limit is None)
        if not text:
            raise InputError(f"text file {path} is empty")
        texts[path.name if path.name not in texts else str(path)] = text
    return texts


def split_bytes(text: str, size: int = CHUNK_BYTES) -> list[str]:
    """Cut text into pieces of at most ``size`` bytes, at a line or word boundary where there is one.

    All tokenizers are scored on the same pieces, so that they see the same context in bytes.
    """
    pieces = []
    while text:
        head = text.encode()[:size].decode("utf-8", "ignore")
        if len(head) < len(text):
            cut = max(head.rfind("\n"), head.rfind(" "))
            head = head[:cut] if cut > len(head) // 2 else head
        pieces.append(head)
        text = text[len(head) :]
    return [piece for piece in pieces if piece.strip()]
