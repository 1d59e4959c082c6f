"""The table on the shipped recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["pipeline"]

_NAMES = {
    "arxiv": "arXiv",
    "wikitext2": "WikiText-2",
    "python": "Python's docs",
    "lambada": "LAMBADA",
    "gsm8k": "GSM8K",
}


def pipeline(results: Sequence[dict[str, Any]]) -> str:
    """By recipe and stage: bits per byte on each text, and the difference to what the stage is compared with."""
    lines = ["| recipe: models; stage | first text | second text |", "|---|---:|---:|"]
    for result in results:
        texts = result["settings"]["texts"]
        shown = [name for name in result["stages"].values() if name is not None]
        tested = list(dict.fromkeys(text for stage in shown for text in stage["model"]))
        heads = [_NAMES[_corpus(texts, text.removesuffix("-test"))] for text in tested]
        first, second = [*(f"*{head}*" for head in heads), ""][:2]
        lines.append(f"| **{result['title']}** | {first} | {second} |")
        for stage, of in result["stages"].items():
            cells = ["not come to", ""] if of is None else [*(_cell(of, text) for text in tested), ""]
            lines.append(f"| {stage} | {' | '.join(cells[:2])} |")
    settings = results[0]["settings"]
    trained = " ".join(line for line in map(_trained, results) if line)
    lines += [
        "",
        "Bits per byte, and in brackets what a stage loses against the model that it is compared with; "
        f"{settings['test_bytes'] // 1024} kB of each text, {settings['train_bytes'] // 1000} kB to train on. "
        f"{trained} One thread beside other work. Result files: `benchmarks/results/pipeline_*.json`.",
    ]
    return "\n".join(lines)


def _corpus(texts: dict[str, str], text: str) -> str:
    """Which one a text that is measured on is of."""
    return next(texts[name] for name in (text, f"{text}-text", "text") if name in texts)


def _cell(of: dict[str, Any], text: str) -> str:
    own = of["model"][text]
    return f"{own:.3f}" + (f" ({own - of['against'][text]:+.3f})" if "against" in of else "")


def _trained(result: dict[str, Any]) -> str:
    """How many updates the stages of a run made, and whether its gates held."""
    steps = [f"{of['steps']} updates in `{name}`" for name, of in result["training"].items() if of]
    found = steps if result["gates_kept"] else [*steps, "a gate was not kept to"]
    return f"*{result['title']}*: {', '.join(found)}." if found else ""
