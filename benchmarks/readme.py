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
    ours, peer = sides["tokensurgeon"], sides["mergekit-tokensurgeon"]
    loss = result["loss"]
    lines = [
        "| SmolLM2's tokenizer onto Gemma-3-270M, OMP, k=64 | tokensurgeon | mergekit-tokensurgeon 0.1.5 |",
        "|---|---:|---:|",
    ]
    for size, of in loss.items():
        lines.append(
            f"| loss in bits per byte, mean of four texts of {int(size) // 1024} kB | **+{of['tokensurgeon']:.3f}** | "
            f"+{of['mergekit-tokensurgeon']:.3f} |"
        )
    lines += [
        f"| whole command, wall time (median of {len(ours['runs'])}) | {ours['median_wall_s']:.0f} s | "
        f"{peer['median_wall_s']:.0f} s |",
        f"| peak memory | {ours['median_peak_mib'] / 1024:.1f} GiB | {peer['median_peak_mib'] / 1024:.1f} GiB |",
        "",
        f"{result['hardware']['cores']} cores of {result['hardware']['cpu']}; "
        f"`benchmarks/results/compare_mergekit.json`, {result['date']}. The untouched model scores "
        + " and ".join(f"{s['mean']:.4f}" for s in sides["untouched base"]["scores"].values())
        + ".",
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
