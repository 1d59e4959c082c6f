"""The README's table on distillation; `benchmarks.readme` puts it in its place."""

from __future__ import annotations

from typing import Any

__all__ = ["distil", "trimming"]


def trimming(result: dict[str, Any]) -> str:
    """Size, exactness and time of whole commands."""
    lines = [
        "| | tokens | parameters | text cut as before | logits differ by | other texts changed | wall | memory |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name, of in result["trim"].items():
        base = of["untouched"]
        title = result["settings"]["models"][name]["title"]
        lines.append(f"| **{title}** | {base['tokens']:,} | {base['parameters'] / 1e6:.1f} M | | | | | |")
        for side, row in of["sides"].items():
            if "error" in row:
                lines.append(f"| {side} | does not run: {row['error']} | | | | | | |")
                continue
            was, now = row["tokens_for_the_text"]
            differ = row["logits_differ_by"]
            cells = [
                f"{row['tokens']:,}",
                f"{row['parameters'] / 1e6:.1f} M",
                "yes" if row["text_encoded_as_before"] else f"no: {now / was:.2f} times the tokens",
                "tokens are gone" if differ is None else f"{differ:.1g}",
                f"{row['other_texts_changed']} of {row['other_texts']}",
                f"{row['wall_s']:.0f} s",
                f"{row['peak_mib'] / 1024:.1f} GiB",
            ]
            lines.append(f"| {side} | {' | '.join(cells)} |")
    lines += [
        "",
        "| | bits per byte of the text | of LAMBADA | tokens per byte there | scored tokens/s | generated tokens/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, of in result["trim"].items():
        for side in ("untouched", "tokensurgeon"):
            row = of["untouched"] if side == "untouched" else of["sides"][side]
            bits = row["bits"]
            cells = [
                f"{bits['wikitext2']['bits_per_byte']:.4f}",
                f"{bits['lambada']['bits_per_byte']:.4f}",
                f"{bits['lambada']['tokens_per_byte']:.3f}",
                f"{row['speed']['scoring']:.0f}",
                f"{row['speed']['generation']:.1f}",
            ]
            trimmed = "trimmed" if side == "tokensurgeon" else "untouched"
            lines.append(f"| {result['settings']['models'][name]['title']}, {trimmed} | {' | '.join(cells)} |")
    lines += ["", _ran(result, "trimming")]
    return "\n".join(lines)


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
