"""The README's tables, made from committed results.

python -m benchmarks.readme          # write them
python -m benchmarks.readme --check  # exit with 1 if the README does not agree with the results
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def compare_mergekit(result: dict[str, Any]) -> str:
    """Loss, time and memory of whole commands."""
    sides = result["sides"]
    titles = {
        "tokensurgeon": "tokensurgeon",
        "calibrated": "with `--calibrate`",
        "mergekit-tokensurgeon": "mergekit-tokensurgeon 0.1.5",
    }
    order = [side for side in titles if side in sides]
    lines = [
        f"| SmolLM2's tokenizer onto Gemma-3-270M, OMP, k=64 | {' | '.join(titles[side] for side in order)} |",
        "|---" + "|---:" * len(order) + "|",
    ]
    for size, of in result["loss"].items():
        cells = " | ".join(f"+{of[side]:.3f}" for side in order)
        lines.append(f"| loss in bits per byte, mean of four texts, {int(size) // 1024} kB each | {cells} |")
    walls = " | ".join(f"{sides[side]['median_wall_s']:.0f} s" for side in order)
    peaks = " | ".join(f"{sides[side]['median_peak_mib'] / 1024:.1f} GiB" for side in order)
    untouched = " and ".join(f"{s['mean']:.3f}" for s in sides["untouched base"]["scores"].values())
    lines += [
        f"| whole command, wall time (median of {len(sides['tokensurgeon']['runs'])}) | {walls} |",
        f"| peak memory | {peaks} |",
        "",
        f"{result['hardware']['cores']} cores of {result['hardware']['cpu']}, {result['date']}; the untouched model "
        f"scores {untouched}. Result file: `benchmarks/results/compare_mergekit.json`.",
    ]
    return "\n".join(lines)


def anchors(result: dict[str, Any]) -> str:
    """Anchors by string and by bytes for some pairs."""
    lines = [
        "| donor's tokenizer → base | same string | of these wrong | same bytes or role |",
        "|---|---:|---:|---:|",
    ]
    for pair in result["settings"]["shown"]:
        row = result["pairs"][pair]
        lines.append(
            f"| {pair.replace(' onto ', ' → ')} | {row['by_string']:,} | {row['by_string_wrong']:,} | "
            f"**{row['by_bytes_and_role']:,}** |"
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"compare_mergekit": compare_mergekit, "anchors": anchors}


def render(readme: str) -> str:
    """The README with every marked block replaced by its table."""
    for name, table in TABLES.items():
        result = json.loads((RESULTS / f"{name}.json").read_text())
        block = f"<!-- results:{name} -->\n{table(result)}\n<!-- /results:{name} -->"
        pattern = rf"<!-- results:{name} -->.*?<!-- /results:{name} -->"
        readme, found = re.subn(pattern, lambda _, block=block: block, readme, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"README.md has {found} blocks for {name}; it must have one")
    return readme


def main() -> int:
    """Write or check."""
    path = ROOT / "README.md"
    before = path.read_text()
    after = render(before)
    if "--check" in sys.argv:
        return int(before != after)
    path.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
