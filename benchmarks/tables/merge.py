"""The tables on merges."""

from __future__ import annotations

from typing import Any

__all__ = ["merge", "merge_interference", "merge_search"]

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
    """The round trip in a sentence, and bits per byte of models and merges where those have been made."""
    trip = result["round_trip"]
    first, mean = trip["first"], trip["average"]
    told = (
        "The way there and back, SmolLM2 with Gemma-3's tokenizer merged linearly with SmolLM2 into SmolLM2's ids, "
        f"gives back {first['same_tensors']} of {first['tensors']} tensors bit for bit and loses "
        f"{first['difference']['mean']:.3f} bits per byte. With `embeddings: average` the "
        f"{mean['same_anchors']:,} rows of shared tokens come back too, and {mean['difference']['mean']:.3f} are lost "
        f"by the {mean['merge']['averaged']:,} others. Result file: `benchmarks/results/merge.json`."
    )
    return "\n".join([*(_table(result) if "merges" in result else []), told])


def _table(result: dict[str, Any]) -> list[str]:
    lines = ["| bits per byte, held out | WikiText-2 | Python's docs | lost by the detour |", "|---|---:|---:|---:|"]
    found = result["merges"]
    lines += [f"| {_NAMES[name]} | {_cells(bits)} | |" for name, bits in found["models"].items()]
    for method, sides in found["merges"].items():
        for side, row in sides.items():
            low, high = row["over_as_they_are"]["interval"]
            lost = f"{row['over_as_they_are']['mean']:+.4f} ({low:+.4f} to {high:+.4f})"
            cells = _cells(row["bits_per_byte"])
            lines.append(f"| {method}: {_SIDES[side]} | {cells} | {lost if side != 'as they are' else ''} |")
    size = result["settings"]["bytes"]["merges"] // 1024
    return [
        *lines,
        "",
        f"{size} kB of each text; what is lost is the mean of both, with its 95% interval over pieces; mergekit "
        f"{result['mergekit']}.",
        "",
    ]


def _cells(bits: dict[str, Any]) -> str:
    return " | ".join(f"{bits[name]:.3f}" for name in _TEXTS)


def merge_search(result: dict[str, Any]) -> str:
    """Recipes set by hand and one that was searched, on the half of each text that nothing was chosen on."""
    titles = {"base": "SmolLM2, untouched", "wikitext2": "tuned on WikiText-2", "python": "tuned on Python's docs"}
    lines = [
        "| | WikiText-2 | Python's documentation | over the better single model, mean | 95% interval |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, of in sorted(result["sides"].items(), key=lambda item: -item[1]["held_out"]["value"]):
        bits, regret = of["bits_per_byte"], of["held_out"]
        low, high = regret["interval"]
        shown = f"{100 * regret['value']:.2f}% | {100 * low:.2f} to {100 * high:.2f}"
        weights = ", ".join(f"{number['found']:.2f}" for number in result["search"]["numbers"])
        title = f"**search** (weights {weights})" if name == "search" else titles.get(name, name)
        lines.append(f"| {title} | {bits['wikitext2']:.4f} | {bits['python']:.4f} | {shown} |")
    gain, search = result["gain"], result["search"]
    low, high = gain["interval"]
    return "\n".join(
        [
            *lines,
            "",
            f"Bits per byte of two short fine-tunes' merges, {result['settings']['bytes'] // 2048} kB held out of each "
            f"text; {search['evaluations']} merges tried in {search['seconds'] / 60:.0f} minutes on one core. Over the "
            f"best recipe by hand ({result['best_by_hand']}) the search gains {100 * gain['value']:.2f} points "
            f"({100 * low:.2f} to {100 * high:.2f}). Result file: `benchmarks/results/merge_search.json`.",
        ]
    )


def merge_interference(result: dict[str, Any]) -> str:
    """Each method beside task arithmetic of its length, which stands in the table too; for two fine-tunes or three."""
    titles = {"wikitext2": "WikiText-2", "python": "Python's documentation", "gsm8k": "GSM8K"}
    settings, sides = result["settings"], result["sides"]
    texts = settings.get("texts", _TEXTS)
    lines = [
        f"| merge | norm of what it adds to the base | {' | '.join(titles[text] for text in texts)} | mean "
        "| over task arithmetic of that length, 95% interval |",
        f"|---|{'---:|' * (len(texts) + 3)}",
    ]
    merges = [item for item in sides.items() if "length" in item[1]]
    for name, of in sorted(merges, key=lambda item: item[1]["length"]):
        bits, beside = of["bits_per_byte"], ""
        if over := of.get("over_same_length"):
            low, high = over["interval"]
            beside = f"{over['mean']:+.4f} ({low:+.4f} to {high:+.4f})"
        cells = " | ".join(f"{bits[text]:.4f}" for text in (*texts, "mean"))
        method = settings["sides"][name]["merge_method"]
        shown = f"`{method}`{name.removeprefix(method)}" if name.startswith(method) else name
        lines.append(f"| {shown} | {of['length']:.1f} | {cells} | {beside} |")
    spent = [f"`{kind}` {of['cpu_s']:.0f}" for kind, of in result["prepared"].items() if "cpu_s" in of]
    untuned, *tuned = (sides[name]["bits_per_byte"]["mean"] for name in ("base", *texts))
    return "\n".join(
        [
            *lines,
            "",
            f"Bits per byte of {'three' if len(texts) == 3 else 'two'} short fine-tunes' merges, "
            f"{settings['bytes'] // 1024} kB held out of each text; the mean is {untuned:.4f} before any tuning and "
            f"{min(tuned):.4f} for the best of the fine-tunes by itself. Task "
            "arithmetic between its two nearest lengths. CPU seconds for the coefficients: "
            f"{', '.join(spent)}. Result file: `benchmarks/results/{result['experiment']}.json`.",
        ]
    )
