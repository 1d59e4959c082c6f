"""Heal, and write a line for every step: when it ended, what was read by then, what went over the loopback by then.

    python -m benchmarks.common.stepped LOG '{"model": …, "teacher": …, "out": …, "options": {…}}'

Alone, in a group of several (``TORCHFT_LIGHTHOUSE``), or under torchrun. The report is the last line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tokensurgeon.healing import HealOptions, HealReport, heal

_COUNTERS = Path("/proc/net/dev")


def main(log: Path, asked: dict[str, Any]) -> None:
    """Heal as asked."""

    def stepped(_share: float, report: HealReport, _losses: dict[str, float]) -> None:
        _write(log, {"at": time.time(), "steps": report.steps, "tokens": report.tokens, "loopback": loopback()})

    options = HealOptions(**{name: tuple(v) if isinstance(v, list) else v for name, v in asked["options"].items()})
    report = heal(asked["model"], asked["teacher"], asked["out"], options, progress=stepped)
    if report.out is not None:
        kept = ("steps", "tokens", "seconds", "rows", "curve", "best", "sent")
        _write(log, {"report": {name: getattr(report, name) for name in kept}})


def loopback() -> int:
    """Bytes that were sent over it so far."""
    line = next(line for line in _COUNTERS.read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.partition(":")[2].split()[8])


def _write(log: Path, line: dict[str, Any]) -> None:
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
