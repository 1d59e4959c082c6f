"""The table of hostile inputs: by command, how many are used, and how many are refused."""

from __future__ import annotations

from typing import Any

__all__ = ["hostile"]

_KINDS = ("used", "refused in one line", "untyped")


def hostile(result: dict[str, Any]) -> str:
    """Counts by command, and the slowest refusal."""
    lines = ["| command | inputs | used | refused in one line | refused otherwise |", "|---|---:|---:|---:|---:|"]
    commands = result["summary"]["by command"]
    for name, counts in commands.items():
        lines.append(f"| {name} | {sum(counts.values())} | {' | '.join(str(counts.get(kind, 0)) for kind in _KINDS)} |")
    totals = [sum(counts.get(kind, 0) for counts in commands.values()) for kind in _KINDS]
    lines.append(f"| all | {result['summary']['inputs']} | {' | '.join(map(str, totals))} |")
    slowest = max((one for one in result["inputs"] if one["exit"] == 2), key=lambda one: one["seconds"])
    return "\n".join(
        [
            *lines,
            "",
            f"{result['summary']['left something']} inputs left something behind. The slowest refusal took "
            f"{slowest['seconds']:.1f} s ({slowest['command']}, {slowest['file']}: {slowest['what']}). "
            f"{result['date']}. Every input with its line: `benchmarks/results/hostile.json`.",
        ]
    )
