"""Read and cut text to measure on; files of any size, in parts."""

from __future__ import annotations

import io
import itertools
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from tokensurgeon.checkpoint.text import decoded_parts
from tokensurgeon.errors import InputError
from tokensurgeon.progress import Progress, Stage

__all__ = ["CHUNK_BYTES", "Text", "TextPieces", "cut_bytes", "open_texts", "python_text", "split_bytes"]

CHUNK_BYTES = 2048
_PART = 1 << 18
_MARK = "\ufeff".encode()


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


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is read in parts, as often as it is gone through: it may be larger than the memory.

    Attributes:
        name: What it is called.
        source: A file, or the bytes themselves, in UTF-8.
        n_bytes: How many of them are read, from the beginning; a byte order mark counts, and is no text.
        copied: Keeps the copy of a pipe, which can be read only once.
        progress: Called with (stage, bytes read, bytes in all) each time that it is gone through.
        stage: What it is read for.
    """

    name: str
    source: Path | bytes
    n_bytes: int
    copied: Any = field(default=None, repr=False)
    progress: Progress | None = field(default=None, repr=False)
    stage: Stage = Stage.READ

    @classmethod
    def of(cls, content: str, name: str = "text") -> Text:
        """A text that is in memory."""
        data = content.encode()
        return cls(name, data, len(data))

    def __iter__(self) -> Iterator[str]:
        """The text in parts.

        Raises:
            InputError: If it cannot be read, or is not UTF-8.
        """
        yield from decoded_parts(self._bytes(), f"text file {self.name}")

    def telling(self, progress: Progress | None, stage: Stage = Stage.READ) -> Text:
        """The same, that says how far it is read."""
        return replace(self, progress=progress, stage=stage)

    def beginning(self, n: int) -> str:
        """The first ``n`` characters."""
        found = ""
        for part in self.telling(None):
            found += part
            if len(found) >= n:
                break
        return found[:n]

    def end(self, n_bytes: int) -> str:
        """The last bytes, without those of a character that goes beyond them."""
        return self.at(max(self.marked, self.n_bytes - n_bytes), n_bytes)

    def middle(self, n_bytes: int) -> str:
        """As many bytes from the middle, without those of a character that is cut."""
        return self.at(max(self.marked, (self.n_bytes - n_bytes) // 2), n_bytes)

    def at(self, place: int, n_bytes: int) -> str:
        """The characters from one byte on."""
        with self._opened() as file:
            file.seek(place)
            return file.read(min(n_bytes, self.n_bytes - place)).decode("utf-8", "ignore")

    @property
    def marked(self) -> int:
        """Bytes of the byte order mark."""
        with self._opened() as file:
            return len(_MARK) if file.read(len(_MARK)) == _MARK else 0

    def _opened(self) -> BinaryIO:
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        try:
            return self.source.open("rb")
        except OSError as error:
            raise InputError(f"text file {self.source} cannot be read ({error.strerror})") from error

    def _bytes(self) -> Iterator[bytes]:
        done = 0
        with self._opened() as file:
            while part := file.read(min(_PART, self.n_bytes - done)):
                yield part
                done += len(part)
                if self.progress is not None:
                    self.progress(self.stage.of(self.name), done, self.n_bytes)


def open_texts(paths: Sequence[Path], limit: int | None = None) -> dict[str, Text]:
    """Text files by name, looked through once; Python's own text where none is given.

    Args:
        paths: Files, or pipes.
        limit: Bytes of each to read at most.

    Raises:
        InputError: If a file is missing, empty, or not UTF-8.
    """
    if not paths:
        name = "python-topics"
        return {name: Text.of(python_text(limit or 32_768), name)}
    texts: dict[str, Text] = {}
    for path in (given.expanduser() for given in paths):
        name = path.name if path.name not in texts else str(path.absolute() if str(path) in texts else path)
        texts[name] = _checked(path, name, limit)
    return texts


def _checked(path: Path, name: str, limit: int | None) -> Text:
    copied = None
    try:
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode):
            copied = tempfile.NamedTemporaryFile(prefix="tokensurgeon-text-")  # noqa: SIM115 (the text keeps it)
            with path.open("rb") as pipe:
                shutil.copyfileobj(pipe, copied)
            copied.flush()
        elif not stat.S_ISREG(mode):
            raise InputError(f"text file {path} is no file. Give a file, or a pipe")
        source = path if copied is None else Path(copied.name)
        size = source.stat().st_size
        wanted = size if limit is None else min(limit, size)
        with source.open("rb") as file:
            data = itertools.takewhile(bool, (file.read(min(_PART, wanted - file.tell())) for _ in itertools.count()))
            read = sum(len(part.encode()) for part in decoded_parts(data, f"text file {path}", whole=wanted == size))
    except OSError as error:
        raise InputError(f"text file {path} cannot be read ({error.strerror})") from error
    if not read:
        raise InputError(f"text file {path} is empty")
    text = Text(name, source, wanted, copied)
    return Text(name, source, text.marked + read, copied)  # without a character that the limit cuts


@dataclass(frozen=True, slots=True)
class TextPieces(Sequence[str]):
    """Pieces of texts as `split_bytes` cuts them; only where they lie is kept in memory.

    Attributes:
        texts: In their order.
        places: (n, 3) int64: number of the text, first byte, bytes.
    """

    texts: Sequence[Text]
    places: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, texts: Iterable[Text], size: int = CHUNK_BYTES) -> TextPieces:
        """The pieces of some texts."""
        texts, found = list(texts), []
        for number, text in enumerate(texts):
            lengths, used = [], []
            for piece in _cut(text, size):
                lengths.append(len(piece.encode()))
                used.append(bool(piece.strip()))
            ends = text.marked + np.cumsum(lengths, dtype=np.int64)
            places = np.stack([np.full(len(ends), number), ends - lengths, lengths], axis=1)
            found.append(places[np.array(used, dtype=bool)])
        return cls(texts, np.concatenate(found) if found else np.zeros((0, 3), dtype=np.int64))

    def __len__(self) -> int:
        """How many."""
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> TextPieces: ...

    def __getitem__(self, index: int | slice) -> str | TextPieces:
        """One of them, read now; or some, to be read later."""
        if isinstance(index, slice):
            return TextPieces(self.texts, self.places[index])
        number, place, n_bytes = map(int, self.places[index])
        return self.texts[number].at(place, n_bytes)

    def without(self, numbers: Iterable[int]) -> TextPieces:
        """All but some."""
        return TextPieces(self.texts, np.delete(self.places, list(numbers), axis=0))


def split_bytes(text: str, size: int = CHUNK_BYTES) -> list[str]:
    """Cut text into pieces of at most ``size`` bytes, at a line or word boundary where there is one.

    All tokenizers are scored on the same pieces, so that they see the same context in bytes.
    """
    return list(cut_bytes([text], size))


def cut_bytes(parts: Iterable[str], size: int = CHUNK_BYTES) -> Iterator[str]:
    """`split_bytes` of a text that comes in parts."""
    return (piece for piece in _cut(parts, size) if piece.strip())


def _cut(parts: Iterable[str], size: int) -> Iterator[str]:
    """All pieces, the blank ones too."""
    text, begin = "", 0
    for part in parts:
        text, begin = text[begin:] + part, 0
        while len(text) - begin > size:
            yield (piece := _first(text[begin : begin + size], size, more=True))
            begin += len(piece)
    text = text[begin:]
    while text:
        yield (piece := _first(text, size, more=False))
        text = text[len(piece) :]


def _first(text: str, size: int, *, more: bool) -> str:
    """The first piece of a text, or of its beginning where there is more."""
    head = text.encode()[:size].decode("utf-8", "ignore")
    if more or len(head) < len(text):
        cut = max(head.rfind("\n"), head.rfind(" "))
        head = head[:cut] if cut > len(head) // 2 else head
    return head
