"""The tables on hostile donors; `benchmarks.tables.results` puts them in their place."""

from __future__ import annotations

from typing import Any

__all__ = ["trojan"]


def trojan(result: dict[str, Any]) -> str:
    """What is caught of each attack, and what of honest tokens is flagged."""
    lines = [
        "| attack | row's length | caught by anchors | by rows, no forward pass | with the base's states | disagree "
        "with their text | mean probability before | after, no forward pass | with states | calibrated |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for pair in result["pairs"].values():
        for method, attacks in pair["attacks"].items():
            lines.append(f"| **{pair['title']}, {method.replace('omp ', 'OMP, ')}** | | | | | | | | | |")
            for name, of in attacks.items():
                p, caught = of["probability"], of["caught"]
                cells = [
                    f"{of['length']:.3g}",
                    "yes" if of["anchors"]["dropped"] else "",
                    f"{caught['without_forward']['all']:.0%}",
                    f"{caught['with_states']['all']:.0%}",
                    f"{of['pieces']:.0%}",
                    *(f"{p[key]:.2g}" for key in ("before", "without_forward", "with_states", "calibrated")),
                ]
                lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| honest donor | method | flagged, no forward pass | flagged with states | of the limit, median and most |",
        "|---|---|---:|---:|---:|",
    ]
    for pair in result["pairs"].values():
        for method, of in pair["honest"].items():
            lines.append(
                f"| {pair['title']} | {method} | {of['flagged']['all']:.1%} | {of['flagged_by_states']['all']:.1%} | "
                f"{of['times']['p50']:.2f} and {of['times']['p100']:.2f} |"
            )
    settings = result["settings"]
    lines += [
        "",
        f"{settings['tokens']} attacked tokens an attack, {settings['honest']} honest ones a pair; probabilities are "
        f"means over {settings['states']} final states of the base on text, and over the tokens; length is in the "
        f"base's median rows. {result['date']}. Result file: `benchmarks/results/trojan.json`.",
    ]
    return "\n".join(lines)
