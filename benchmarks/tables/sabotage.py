"""The table of sabotages: how many changes of each kind are found, and by what."""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["missed", "sabotage", "why_harmless"]


def missed(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Kind of output, group and name of every change that neither base nor donor shows once digests are new."""
    return [
        (kind, group, name)
        for kind, of in result["kinds"].items()
        for group, changes in of["caught"].items()
        for name, found in changes.items()
        if not found["base"] and not found["donor"]
    ]


def why_harmless(result: dict[str, Any], kind: str, _group: str, name: str) -> str | None:
    """The reason for which a change that is not found does no harm; None if none is given."""
    known = result["settings"]["harmless"]
    return known.get(name) or known.get(f"{kind}, {name}")


def sabotage(result: dict[str, Any]) -> str:
    """Changes by group, and how many are found."""
    lines = [
        "| what is changed | changes | found as they are | with new digests, by the base alone | by base and donor |",
        "|---|---:|---:|---:|---:|",
    ]
    counts: dict[str, Counter[str]] = {}
    for of in result["kinds"].values():
        for group, changes in of["caught"].items():
            title = "rows" if group.startswith("rows of") else group
            for found in changes.values():
                counts.setdefault(title, Counter()).update(
                    {
                        "all": 1,
                        "digests": bool(found["digests"]),
                        "base": bool(found["base"]),
                        "donor": bool(found["base"] or found["donor"]),
                    }
                )
    total: Counter[str] = Counter()
    for title, of in counts.items():
        total += of
        lines.append(f"| {title} | {of['all']} | {of['digests']} | {of['base']} | {of['donor']} |")
    lines.append(f"| **all** | {total['all']} | {total['digests']} | {total['base']} | {total['donor']} |")
    honest = [*result["honest"].values(), *(of["honest"] for of in result["kinds"].values())]
    left = {found[2]: why_harmless(result, *found) for found in missed(result)}
    reasons = [f"{name} ({why})" for name, why in sorted(left.items())]
    lines += [
        "",
        f"{len(result['kinds'])} kinds of tiny outputs; of {len(honest)} honest ones {sum(map(bool, honest))} fail a "
        f"check. Not found: {'; '.join(reasons) or 'none'}. Result file: `benchmarks/results/sabotage.json`.",
    ]
    return "\n".join(lines)
