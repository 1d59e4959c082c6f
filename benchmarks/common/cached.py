"""Keep what was measured under a key of all that went into it, so that a broken run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["Cached", "digest", "files_digest", "key", "own_source", "source", "versions"]

ROOT = Path(__file__).parents[2]


class Cached:
    """Plain data, one file per key."""

    def __init__(self, directory: Path) -> None:
        """Files go to ``directory``."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def read(self, key: str) -> dict[str, Any] | None:
        """What is kept, if anything is."""
        path = self.directory / f"{key}.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return found

    def write(self, key: str, content: dict[str, Any]) -> None:
        """Keep something."""
        half = self.directory / f"{key}.partial"
        half.write_text(json.dumps(content))
        half.rename(self.directory / f"{key}.json")

    def once(self, key: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is kept, or what ``run`` gives, which is kept then."""
        found = self.read(key)
        if found is None:
            found = run()
            self.write(key, found)
        return found


def key(*parts: Any) -> str:
    """A name for plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@cache
def own_source() -> str:
    """All that decides what we write; what only shows it does not count."""
    shown = ("report", "cli")
    files = sorted((ROOT / "tokensurgeon").rglob("*.py"))
    return versions() + files_digest(path for path in files if path.parent.name not in shown)


def versions() -> str:
    """Of the packages that models run in."""
    return " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))


@cache
def source(pattern: str) -> str:
    """Of the repository's files that match."""
    return files_digest(sorted(ROOT.glob(pattern)))


def digest(directory: Path) -> str:
    """What decides how a model directory behaves: weights, configuration and tokenizer."""
    kept = ("*.safetensors", "config.json", "tokenizer*.json", "special_tokens_map.json", "chat_template*")
    return _digest_of(directory, tuple(sorted(p for kind in kept for p in directory.glob(kind))))


@cache
def _digest_of(_directory: Path, files: tuple[Path, ...]) -> str:
    return files_digest(files)


def files_digest(paths: Iterable[Path]) -> str:
    """Of all their contents."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
