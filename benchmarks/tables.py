"""The README's table on distillation; `benchmarks.readme` puts it in its place."""

from __future__ import annotations

from typing import Any

__all__ = ["distil"]


def distil(result: dict[str, Any]) -> str:
    """Loss and bits per byte before and after."""
    names = list(result["before"])
    lines = [
        f"| bits per byte | {' | '.join(names)} | loss, nats per token |",
        "|---" + "|---:" * (len(names) + 1) + "|",
    ]
    curve = result["training"]["curve"]
    for side, loss in (
        ("student with its own tokenizer", None),
        ("teacher", None),
        ("before", curve[0]["loss"]),
        ("after", curve[-1]["loss"]),
    ):
        cells = " | ".join(f"{result[side][name]:.3f}" for name in names)
        title = {"before": "student with the teacher's tokenizer", "after": "distilled"}.get(side, side)
        lines.append(f"| {title} | {cells} | {'' if loss is None else f'{loss:.3f}'} |")
    minutes, tokens = curve[-1]["minutes"], curve[-1]["tokens"]
    told = f"{minutes:.1f} minutes of training on {tokens:,} tokens of WikiText-2. "
    return "\n".join([*lines, "", told + _ran(result, "distil")])


def _ran(result: dict[str, Any], name: str) -> str:
    hardware = result["hardware"]
    return (
        f"{hardware['threads']} of {hardware['cores']} cores of {hardware['cpu']}, {result['date']}. Result file: "
        f"`benchmarks/results/{name}.json`."
    )
