"""The README's table on merges."""

from __future__ import annotations

from typing import Any

__all__ = ["merge"]

_TEXTS = ("wikitext2", "python")
_NAMES = {
    "base": "SmolLM2, untouched", "wikitext2": "fine-tuned on WikiText-2", "python": "fine-tuned on Python's docs",
    "python, transplanted": "the latter with Gemma-3's tokenizer",
}  # fmt: skip
_SIDES = {
    "as they are": "both as they were trained", "tokensurgeon": "`tokensurgeon merge`, one transplanted",
    "union": "mergekit's union of tokenizers, one transplanted",
}  # fmt: skip


def merge(result: dict[str, Any]) -> str:
    """Bits per byte of models and merges, and the round trip in a sentence."""
    lines = ["| bits per byte, held out | WikiText-2 | Python's docs | lost by the detour |", "|---|---:|---:|---:|"]
    found, trip = result["merges"], result["round_trip"]
    lines += [f"| {_NAMES[name]} | {_cells(bits)} | |" for name, bits in found["models"].items()]
    for method, sides in found["merges"].items():
        for side, row in sides.items():
            low, high = row["over_as_they_are"]["interval"]
            lost = f"{row['over_as_they_are']['mean']:+.4f} ({low:+.4f} to {high:+.4f})"
            cells = _cells(row["bits_per_byte"])
            lines.append(f"| {method}: {_SIDES[side]} | {cells} | {lost if side != 'as they are' else ''} |")
    first, mean = trip["first"], trip["average"]
    return "\n".join(
        [
            *lines,
            "",
            f"{result['settings']['bytes']['merges'] // 1024} kB of each text; what is lost is the mean of both, with its 95% "
            f"interval over pieces; mergekit {result['mergekit']}. The round trip (SmolLM2 with Gemma-3's tokenizer, "
            f"merged linearly with SmolLM2 into SmolLM2's ids) gives back {first['same_tensors']} of "
            f"{first['tensors']} tensors bit for bit, {first['same_anchors']:,} of {first['anchors']:,} merged rows "
            f"among them, and loses {first['difference']['mean']:.4f} bits per byte; with `embeddings: average`, "
            f"{mean['difference']['mean']:.4f}. Result file: `benchmarks/results/merge.json`.",
        ]
    )


def _cells(bits: dict[str, Any]) -> str:
    return " | ".join(f"{bits[name]:.3f}" for name in _TEXTS)
