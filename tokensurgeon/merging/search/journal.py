"""Keep what a search has measured, so that it goes on after an interruption."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokensurgeon.healing.resume import forget

__all__ = ["Journal"]

log = logging.getLogger(__name__)


class Journal:
    """One file per key, in a hidden directory beside the output: a line of JSON for everything measured."""

    def __init__(self, target: Path, key: str) -> None:
        """Read what is there; a line that was cut short ends it."""
        self.directory = target.with_name(f".{target.name}.searching")
        self.path = self.directory / f"{key}.jsonl"
        self._known: dict[str, Any] = {}
        whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else ():
            try:
                name, content = json.loads(line) if line.endswith(b"\n") else (None, None)
            except (ValueError, TypeError):
                break
            if not isinstance(name, str):
                break
            self._known[name], whole = content, whole + len(line)
        if self._known:
            log.warning("going on with %d measurements, kept in %s", len(self._known), self.path)
            with self.path.open("r+b") as file:
                file.truncate(whole)

    def remembered(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured by this name, or is now.

        Args:
            name: Of the measurement.
            measure: Gives plain data.
        """
        if name not in self._known:
            self._known[name] = measure()
            self.directory.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, self._known[name]]) + "\n")
        return self._known[name]

    def knows(self, name: str) -> bool:
        """Whether something was measured by this name."""
        return name in self._known

    def remove(self) -> None:
        """It is no longer needed."""
        forget(self.path)
