"""Save a training that may be interrupted, and find it again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint.durable import put_in_place
from tokensurgeon.checkpoint.model import OpenModel

__all__ = ["SavedState", "forget", "identity_of", "key_of", "state_directory"]

log = logging.getLogger(__name__)


def key_of(*parts: Any) -> str:
    """A name for what must be the same for a run to go on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(side: OpenModel) -> list[Any]:
    """Tokenizer and weights, the latter by size and time."""
    weights = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(side.directory.glob("*.safetensors"))]
    return [side.tokenizer.digest(), weights]


def state_directory(target: Path, work: str = "healing") -> Path:
    """Where what is kept of an unfinished run lies: hidden, beside its output."""
    return target.with_name(f".{target.name}.{work}")


def forget(path: Path) -> None:
    """Remove a file of a run that has ended, and its directory with the last one."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there are more, or another process was quicker
        path.parent.rmdir()


class SavedState:
    """One file per key, in a hidden directory beside the output."""

    def __init__(self, target: Path, key: str, work: str = "healing") -> None:
        """For an output, a key, and what is being done."""
        self.directory = state_directory(target, work)
        self.path = self.directory / f"{key}.pt"

    def save(self, content: dict[str, Any]) -> None:
        """Replace what was saved before, in one step."""
        self.directory.mkdir(parents=True, exist_ok=True)
        work = self.path.with_suffix(".new")
        torch.save(content, work)
        put_in_place(work, self.path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """What was saved, if anything was."""
        if not self.path.is_file():
            own = self.path.stem.partition("-")[0]  # there may be several parts of one state
            others = sorted(path for path in self.directory.glob("*.pt") if path.stem.partition("-")[0] != own)
            if others:
                log.warning("%s is of another model, text or other options; starting anew beside it", others[0])
            return None
        content: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        return content

    def remove(self) -> None:
        """It is no longer needed."""
        forget(self.path)
